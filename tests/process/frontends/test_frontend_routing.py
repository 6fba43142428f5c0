"""Each request goes to the frontend that serves it; what the Rust frontend refuses, the Python frontend answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.model import CHAT, make_model
from tests.support.program import Program, engine_metric, metric_in, running, until
from tests.support.raw_http import post_json, wire

PROMPT: dict[str, Any] = {"model": "fake", "prompt": "Hi", "max_tokens": 4}
HOT = CHAT | {"temperature": 3}
"""What the Rust frontend refuses for its value alone."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A program whose engine has both frontends."""
    folder = tmp_path_factory.mktemp("routing")
    environ = {
        "ENGINE_PYTHON": str(
            make_fake_engine_python(folder / "engine", {"tokens": 8}, rust_version="0.32.0")
        ),
        "MODEL_ID": str(make_model(folder / "model")),
        "SERVED_MODEL_NAME": "fake",
        "LOG_FORMAT": "json",
        "API_KEYS": "one:key-of-one,two:key-of-two,three:key-of-three",
    }
    with running(environ, folder=folder) as started:
        started.client.headers["authorization"] = "Bearer key-of-one"
        started.until_ready()
        yield started


def post(
    program: Program, path: str, body: dict[str, Any], key: str = "key-of-one", **headers: str
) -> httpx2.Response:
    return program.client.post(path, json=body, headers={"authorization": f"Bearer {key}", **headers})


def frontend_of(answer: httpx2.Response) -> str:
    return answer.headers.get("x-fake-frontend", "python")


def logged(program: Program, request_id: str) -> dict[str, Any]:
    """Return the access log's line of a request, once it is written."""

    def lines() -> list[dict[str, Any]]:
        every = [json.loads(line) for line in program.log().splitlines() if line.startswith("{")]
        return [line for line in every if line.get("request_id") == request_id and "frontend" in line]

    until(lines, f"the line of {request_id}")
    return lines()[0]


def fallbacks(program: Program) -> dict[str, float]:
    text = program.client.get("/metrics").text
    lines = (line for line in text.splitlines() if line.startswith("gateway_python_frontend_requests_total{"))
    return {line.split('"')[1]: metric_in(line, "gateway_python_frontend_requests_total") for line in lines}


def test_who_answers(program: Program) -> None:
    """By route, then by fields; each is counted and logged once."""
    message = {"model": "fake", "max_tokens": 4, "messages": CHAT["messages"]}
    before = fallbacks(program)
    for number, (path, body, frontend, reason) in enumerate(
        (
            ("/v1/chat/completions", CHAT, "rust", None),
            ("/v1/chat/completions", CHAT | {"stream": True, "no_stop_trim": False}, "rust", None),
            ("/v1/completions", PROMPT, "rust", None),
            ("/v1/completions", PROMPT | {"prompt": [1, 2, 3]}, "rust", None),
            ("/v1/completions", PROMPT | {"prompt": ["a", "b"]}, "python", "prompt"),
            ("/v1/completions", PROMPT | {"bad_words": ["a"]}, "python", "bad_words"),
            ("/v1/chat/completions", CHAT | {"n": 2}, "python", "n"),
            ("/v1/chat/completions", CHAT | {"min_tokens": None}, "python", "min_tokens"),
            ("/v1/chat/completions", CHAT | {"max_tokens": 10**9}, "python", "max_tokens"),
            ("/v1/responses", {"model": "fake", "input": "Hi"}, "python", "route"),
            ("/v1/messages", message, "python", "route"),
            ("/tokenize", {"prompt": "Hi"}, "python", "route"),
        )
    ):
        answer = post(program, path, body, **{"x-request-id": f"who-{number}"})
        assert (answer.status_code, frontend_of(answer)) == (200, frontend), (path, body, answer.text)
        assert logged(program, answer.headers["x-request-id"])["frontend"] == frontend
        now = fallbacks(program)
        assert {one: now[one] - before.get(one, 0) for one in now if now[one] != before.get(one)} == (
            {reason: 1} if reason else {}
        )
        before = now


def test_a_refusal_never_reaches_the_client_and_is_paid_once(program: Program) -> None:
    refused = metric_in(program.client.get("/metrics").text, "gateway_key_requests_total")
    for number, reason in enumerate(("refused_400", "learned")):
        before = fallbacks(program).get(reason, 0)
        answer = post(program, "/v1/chat/completions", HOT, **{"x-request-id": f"hot-{number}"})
        assert (answer.status_code, frontend_of(answer)) == (200, "python")
        assert answer.json()["id"].endswith(f"hot-{number}")
        assert answer.headers["x-request-id"] == f"hot-{number}"
        assert logged(program, f"hot-{number}")["status"] == 200
        assert fallbacks(program)[reason] == before + 1
    assert metric_in(program.client.get("/metrics").text, "gateway_key_requests_total") == refused + 2
    # Somebody else with values that are served is not slowed down.
    assert (
        frontend_of(post(program, "/v1/chat/completions", CHAT | {"temperature": 1}, "key-of-two")) == "rust"
    )


def test_a_chat_without_a_word_is_empty_text_and_not_null(program: Program) -> None:
    """As the Python frontend says it; the next is for the Rust frontend again."""
    program.change(text="")
    for number in (1, 2):
        answer = post(program, "/v1/chat/completions", CHAT, **{"x-request-id": f"empty-{number}"})
        assert answer.json()["choices"][0]["message"]["content"] == ""
        assert frontend_of(answer) == "python"
        assert logged(program, f"empty-{number}")["frontend"] == "python"
    assert fallbacks(program)["empty_answer"] == 2
    program.change(text=None)
    assert frontend_of(post(program, "/v1/chat/completions", CHAT)) == "rust"


def test_what_both_refuse_is_told_in_the_python_frontends_words(program: Program) -> None:
    body = CHAT | {"temperature": 3, "messages": []}
    for bad in (
        {"model": "fake"},
        CHAT | {"model": "other"},
        CHAT | {"temperature": -1},
        body | {"model": "other"},
    ):
        with wire(program.engine_socket()) as straight:
            own = straight.ask(post_json("/v1/chat/completions", bad))
        for _ in range(2):
            answer = post(program, "/v1/chat/completions", bad, "key-of-three")
            assert (answer.status_code, answer.content, frontend_of(answer)) == (
                own.status,
                own.body,
                "python",
            )
    assert frontend_of(post(program, "/v1/chat/completions", CHAT, "key-of-three")) == "rust"


def test_a_large_body_and_a_stream_that_were_refused(program: Program) -> None:
    long = [{"role": "user", "content": "w" * 3_000_000}]
    answer = post(program, "/v1/chat/completions", HOT | {"messages": long, "stream": True}, "key-of-two")
    assert (answer.status_code, frontend_of(answer)) == (200, "python")
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_client_that_leaves_after_a_refusal_ends_the_work(program: Program) -> None:
    python = program.engine_socket()
    aborted = engine_metric(python, "fake:aborted_total")
    program.change(stall_after_n_chunks=2)
    body = HOT | {"stream": True, "user": "who leaves"}
    with wire(program.port) as client:
        client.send(post_json("/v1/chat/completions", body, "Authorization: Bearer key-of-two"))
        until(
            lambda: engine_metric(python, "vllm:num_requests_running") == 1,
            "the request at the Python frontend",
        )
    until(lambda: engine_metric(python, "fake:aborted_total") == aborted + 1, "the end of its work")
    program.change(stall_after_n_chunks=None)
