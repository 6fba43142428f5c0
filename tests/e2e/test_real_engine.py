"""The real vLLM behind our gateway, through the OpenAI SDK, as its users use it."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from typing import Any

import httpx2
import jsonschema
import openai
import psutil
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from tests.e2e.conftest import MODEL, ROOT, Served
from tests.support.program import until
from tests.support.raw_http import request, wire
from vllm_engine.models.engine_scripts.bundled_files import SOURCES

pytestmark = pytest.mark.e2e

QUESTION: ChatCompletionUserMessageParam = {"role": "user", "content": "What is the capital of Japan?"}
STORY: ChatCompletionUserMessageParam = {"role": "user", "content": "Tell me a long story about the sea."}
GENERATED = "vllm:generation_tokens_total"
QUICKSTART = re.findall(
    r"^```(\w+)\n(.*?)^```$", (ROOT / "docs/use/quickstart.md").read_text(), re.DOTALL | re.MULTILINE
)


def test_alive_before_ready(served: Served) -> None:
    """/livez answered while vLLM was still being imported; the gateway stays small beside a real engine."""
    if served.is_elsewhere:
        pytest.skip("NOT TESTED: the server runs elsewhere (E2E_BASE_URL)")
    assert served.was_alive_while_starting
    assert psutil.Process(served.program.pid).memory_info().rss < 90e6


def test_chat_whole_and_streamed(client: OpenAI) -> None:
    """A real model answers a real question; a stream brings the same text piece by piece, then the usage."""
    ask: Any = {"model": MODEL, "messages": [QUESTION], "max_tokens": 32, "temperature": 0}
    chat = client.chat.completions.create(**ask)
    assert "Tokyo" in (chat.choices[0].message.content or "")
    assert (chat.choices[0].finish_reason, chat.model) == ("stop", MODEL)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == chat.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[-1].usage == chat.usage


def test_the_bundled_models_own_sampling(served: Served, client: OpenAI) -> None:
    """A request that says nothing of sampling gets what was shipped with the model, and its answer ends."""
    shipped = dict(SOURCES[MODEL.removeprefix("bundled:")].generation)
    most = shipped.pop("max_new_tokens")
    if not served.is_elsewhere:
        told = re.search(r"`generation_config.json`: `(\{.*?\})`", served.program.log())
        assert told is not None, "vLLM does not say that it uses the model's sampling"
        del shipped["do_sample"]
        assert ast.literal_eval(told[1]) == {**shipped, "max_tokens": most}
    chat = client.chat.completions.create(model=MODEL, messages=[QUESTION])
    assert chat.usage is not None
    assert (chat.choices[0].finish_reason == "stop") is (chat.usage.completion_tokens < most)


def test_other_routes(client: OpenAI) -> None:
    """Several choices, completions, responses and the list of models; a client's request id comes back."""
    several = client.chat.completions.create(model=MODEL, messages=[STORY], max_tokens=4, n=2, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1]
    text = client.completions.create(
        model=MODEL, prompt="The capital of Japan is", max_tokens=4, temperature=0
    )
    assert "Tokyo" in text.choices[0].text
    assert client.responses.create(model=MODEL, input="Say hi", max_output_tokens=8).output_text
    listed = client.models.with_raw_response.list(extra_headers={"X-Request-Id": "mine-1"})
    assert listed.headers["x-request-id"] == "mine-1"
    (model,) = listed.parse().data
    assert (model.id, (model.model_extra or {})["max_model_len"]) == (MODEL, 8192)


def test_refusals_are_the_sdks_errors(client: OpenAI) -> None:
    ask: Any = {"model": MODEL, "messages": [QUESTION]}
    for error, word, more in (
        (openai.NotFoundError, "nobody/nothing", {"model": "nobody/nothing"}),
        (openai.BadRequestError, "temperature", {"temperature": -1}),
        (openai.BadRequestError, "8192", {"messages": [{"role": "user", "content": "word " * 9000}]}),
    ):
        with pytest.raises(error, match=word):
            client.chat.completions.create(**ask | more)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("more", [{}, {"response_format": {"type": "text"}}], ids=["rust", "python"])
def test_client_gone(served: Served, stream: bool, more: dict[str, Any]) -> None:
    """When the client leaves, vLLM stops, on either frontend, long before the answer would be whole."""
    most = 4000
    body = {"model": MODEL, "messages": [STORY], "max_tokens": most, "ignore_eos": True, "stream": stream}
    before = served.program.metric(GENERATED)
    with httpx2.Client(base_url=served.program.url, timeout=3.0) as client:
        if stream:
            with client.stream("POST", "/v1/chat/completions", json=body | more) as answer:
                lines = answer.iter_lines()  # kept: the end of an iterator is the end of its connection
                next(lines)
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post("/v1/chat/completions", json=body | more)
    until(lambda: generates_nothing_else(served), "the engine's stop")
    assert served.program.metric(GENERATED) < before + most


def generates_nothing_else(served: Served) -> bool:
    """Whether a short answer is all that the engine generates while it generates that."""
    tokens = 4
    before = served.program.metric(GENERATED)
    served.program.chat(model=MODEL, max_tokens=tokens, ignore_eos=True).raise_for_status()
    return served.program.metric(GENERATED) == before + tokens


def test_version_and_health(served: Served) -> None:
    body = served.program.client.get("/version").json()
    assert re.fullmatch(r"0\.\d+\.\d+", body["vllm"])
    assert (body["model"], body["frontend"]) == (MODEL, "both")
    assert body["dtype"] in ("bfloat16", "float16")
    assert served.program.client.get("/healthz").status_code == 200


def test_description(served: Served) -> None:
    """vLLM's own OpenAPI document, as far as its routes are served: valid, whole, and true for what it says is there."""
    client = served.program.client
    until(
        lambda: "x-note" not in client.get("/openapi.json", timeout=90).json()["info"], "vLLM's description"
    )
    document = client.get("/openapi.json").json()
    paths = document["paths"]
    assert {
        "/v1/chat/completions",
        "/v1/responses/{response_id}",
        "/tokenize",
        "/livez",
        "/metrics",
    } <= paths.keys()
    assert not {"/load", "/scale_elastic_ep", "/invocations", "/v1/embeddings"} & paths.keys()
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = {**body, "components": document["components"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"model": MODEL, "messages": [QUESTION], "max_tokens": 4}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(good | {"temperature": "hot"}, schema)
    named = re.findall(r'"#/components/(\w+)/([^"]+)"', json.dumps(document))
    assert all(name in document["components"][section] for section, name in named)
    for path, item in paths.items():
        if "get" in item and "{" not in path:
            assert client.get(path).status_code == 200, path


def test_known_metrics(served: Served, client: OpenAI) -> None:
    """What the dashboard, the rules and docs/operate/metrics.md are held to are the real vLLM's metrics: name, type, labels.

    What there is beside those is what the Rust frontend alone has, where both run.
    """
    for _ in client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, stream=True):
        pass
    script = ROOT / "tools/vllm_metrics.py"
    done = subprocess.run([sys.executable, script, served.program.url], capture_output=True, check=True)
    real = json.loads(done.stdout)
    known = json.loads((ROOT / "deploy/observability/vllm-metrics.json").read_text())
    assert real["vllm"] == known["vllm"]
    kinds = [
        {name: (one["type"], one["labels"]) for name, one in each["metrics"].items()}
        for each in (real, known)
    ]
    assert kinds[1].items() <= kinds[0].items()
    more = kinds[0].keys() - kinds[1].keys()
    with wire(served.socket.with_name("rust.sock")) as connection:
        rust = connection.ask(request("GET", "/metrics", None, "Connection: close")).body.decode()
    assert {name for name in more if f"# TYPE {name.removesuffix('_total')} " not in rust} == set()


@pytest.mark.parametrize(
    ("command", "language", "word", "expected"),
    [
        ([sys.executable, "-c"], "python", "OpenAI", r"\w+ \w+ \w+"),
        (["bash", "-euc"], "bash", "chat/completions", '"content":'),
        (["bash", "-euc"], "bash", "healthz", '"status":"ready"'),
    ],
)
def test_quickstart(served: Served, command: list[str], language: str, word: str, expected: str) -> None:
    """The quickstart's lines, run as they stand; only the port is the test's."""
    if language == "bash" and shutil.which("curl") is None:
        pytest.skip("NOT TESTED: no curl on PATH")
    [text] = [text for found, text in QUICKSTART if found == language and word in text]
    assert "http://127.0.0.1:8000" in text
    script = text.replace("http://127.0.0.1:8000", served.program.url)
    done = subprocess.run([*command, script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(expected, done.stdout)
