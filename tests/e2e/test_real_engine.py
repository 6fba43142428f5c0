"""The real vLLM behind our gateway, through the OpenAI SDK, as its users use it."""

from __future__ import annotations

import re
import time

import httpx2
import openai
import psutil
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from tests.e2e.conftest import MODEL, Served
from tests.support.program import engine_metric, until

pytestmark = pytest.mark.e2e

QUESTION: ChatCompletionUserMessageParam = {"role": "user", "content": "What is the capital of Japan?"}
STORY: ChatCompletionUserMessageParam = {"role": "user", "content": "Tell me a long story about the sea."}


def running_requests(served: Served) -> float:
    """Ask the engine itself how many requests it is working on."""
    return engine_metric(served.socket, "vllm:num_requests_running")


def test_alive_at_once(served: Served) -> None:
    """/livez answered long before vLLM was even imported."""
    if served.is_elsewhere:
        pytest.skip("NOT TESTED: the server runs elsewhere (E2E_BASE_URL)")
    assert served.livez_seconds < served.ready_seconds / 4


def test_gateway_memory(served: Served) -> None:
    """The gateway stays under 90 MB beside a real engine."""
    assert psutil.Process(served.program.pid).memory_info().rss < 90e6


def test_chat(client: OpenAI) -> None:
    """A real model answers a real question."""
    chat = client.chat.completions.create(model=MODEL, messages=[QUESTION], max_tokens=32, temperature=0)
    assert "Tokyo" in (chat.choices[0].message.content or "")
    assert chat.choices[0].finish_reason == "stop"
    assert chat.model == MODEL
    assert chat.usage is not None
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens


def test_stream_with_usage(client: OpenAI) -> None:
    """A stream brings the same text piece by piece, then the usage."""
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[QUESTION],
        max_tokens=32,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "Tokyo" in "".join(pieces)
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 3


def test_max_tokens(client: OpenAI) -> None:
    """`max_tokens` ends the answer, and the reason says so."""
    chat = client.chat.completions.create(model=MODEL, messages=[STORY], max_tokens=5)
    assert chat.choices[0].finish_reason == "length"
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 5


def test_stop(client: OpenAI) -> None:
    """A stop string ends the answer before it."""
    chat = client.chat.completions.create(
        model=MODEL, messages=[QUESTION], max_tokens=32, temperature=0, stop=["Tokyo"]
    )
    assert "Tokyo" not in (chat.choices[0].message.content or "")
    assert chat.choices[0].finish_reason == "stop"


def test_several_choices(client: OpenAI) -> None:
    """The Python frontend, the default, has n > 1."""
    chat = client.chat.completions.create(model=MODEL, messages=[STORY], max_tokens=4, n=2, seed=1)
    assert [choice.index for choice in chat.choices] == [0, 1]


def test_completion(client: OpenAI) -> None:
    """The older completions route works too."""
    done = client.completions.create(
        model=MODEL, prompt="The capital of Japan is", max_tokens=4, temperature=0
    )
    assert "Tokyo" in done.choices[0].text


def test_responses(client: OpenAI) -> None:
    """So does the newer responses route."""
    response = client.responses.create(
        model=MODEL, input="What is the capital of Japan?", max_output_tokens=32
    )
    assert response.output_text


def test_models(client: OpenAI) -> None:
    """The model is listed by the name that clients send, with its length."""
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert (model.model_extra or {})["max_model_len"] == 8192


def test_wrong_model(client: OpenAI) -> None:
    """Another model's name is a 404 that names it."""
    with pytest.raises(openai.NotFoundError, match="nobody/nothing"):
        client.chat.completions.create(model="nobody/nothing", messages=[QUESTION])


def test_bad_body(client: OpenAI) -> None:
    """A value that cannot be is a 400 that says which."""
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=MODEL, messages=[QUESTION], temperature=-1)


def test_too_long(client: OpenAI) -> None:
    """A prompt longer than the model holds is a 400 that gives the length."""
    with pytest.raises(openai.BadRequestError, match="8192"):
        client.completions.create(model=MODEL, prompt="word " * 9000)


def test_request_id(client: OpenAI) -> None:
    """A client's request id comes back."""
    answer = client.models.with_raw_response.list(extra_headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_client_gone(served: Served, stream: bool) -> None:
    """When the client leaves, vLLM's running requests fall to none, streaming or not."""
    body = {"model": MODEL, "messages": [STORY], "max_tokens": 4000, "ignore_eos": True, "stream": stream}
    # A whole answer never comes in this time: the client gives up as a user would.
    with httpx2.Client(base_url=served.program.url, timeout=3.0) as client:
        if stream:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                lines = answer.iter_lines()  # kept: the end of an iterator is the end of its connection
                next(lines)
                until(lambda: running_requests(served) == 1, "the request at the engine", 20)
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post("/v1/chat/completions", json=body)
    left = time.monotonic()
    until(lambda: running_requests(served) == 0, "the engine's stop", 10)
    assert time.monotonic() - left < 8  # the whole answer would take far longer


def test_version(served: Served) -> None:
    """/version tells the real versions."""
    body = served.program.client.get("/version").json()
    assert re.fullmatch(r"0\.\d+\.\d+", body["vllm"])
    assert (body["model"], body["frontend"]) == (MODEL, "python")
    assert body["dtype"] in ("bfloat16", "float16")


def test_health(served: Served) -> None:
    """/healthz is 200 once the engine generates."""
    assert served.program.client.get("/healthz").status_code == 200
