"""/v1/*: bytes through unchanged in both directions, unbuffered, and a client's leaving is passed on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import change_scenario, scenario_of
from tests.support.program import Program, engine_metric, until

CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = CHAT | {"stream": True}
LONG = {"tokens": 10_000, "tokens_per_second": 20}


def metric(program: Program, name: str) -> float:
    """Read one of the fake engine's metrics, through its own socket."""
    (path,) = set(program_sockets(program))
    return engine_metric(Path(path), name)


def program_sockets(program: Program) -> list[str]:
    """Return the path of the engine's socket."""
    command = psutil.Process(program.engine_pid()).cmdline()
    return [command[command.index("--uds") + 1]]


def events(text: str) -> list[str]:
    """Split a stream into its events."""
    return [part for part in text.split("\n\n") if part]


def test_echo(start: StartProgram) -> None:
    """Method, path, query, headers and body reach the engine as they were sent."""
    program = start()
    program.until_ready()
    body = bytes(range(256)) * 1000
    answer = program.client.request(
        "PUT",
        "/v1/_echo?a=%2F&b=1&b=2",
        content=body,
        headers={"X-Mine": "1", "Authorization": "Bearer x", "Connection": "keep-alive, X-Hop", "X-Hop": "1"},
    )
    echoed = answer.json()
    headers = {name.lower(): value for name, value in echoed["headers"]}
    assert echoed["method"] == "PUT"
    assert echoed["query"] == "a=%2F&b=1&b=2"
    assert echoed["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert (headers["x-mine"], headers["authorization"]) == ("1", "Bearer x")
    assert headers["content-length"] == str(len(body))
    assert "x-hop" not in headers
    assert "transfer-encoding" not in headers


def test_chunked_upload(start: StartProgram) -> None:
    """A body of unknown length is streamed on, whole and in order."""
    program = start()
    program.until_ready()

    def pieces() -> Iterator[bytes]:
        for number in range(200):
            yield bytes([number]) * 10_000

    answer = program.client.post("/v1/_echo", content=pieces())
    expected = hashlib.sha256(b"".join(bytes([n]) * 10_000 for n in range(200))).hexdigest()
    assert answer.json()["body_sha256"] == expected


def test_stream_is_unbuffered(start: StartProgram) -> None:
    """Events arrive as the engine makes them, not at the end."""
    program = start({"tokens": 40, "tokens_per_second": 10})
    program.until_ready()
    began = time.monotonic()
    with program.client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-accel-buffering"] == "no"
        arrivals = [time.monotonic() - began for line in answer.iter_lines() if line]
    assert arrivals[0] < arrivals[-1] / 2
    assert len(set(arrivals)) > 10


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (json.dumps(CHAT | {"model": "other"}), 404),
        ("{", 400),
        (json.dumps({"model": "fake"}), 400),
        (json.dumps(CHAT | {"temperature": -1}), 400),
    ],
)
def test_engine_errors_pass_through(start: StartProgram, body: str, status: int) -> None:
    """The engine's own errors are the client's, word by word."""
    program = start()
    program.until_ready()
    headers = {"Content-Type": "application/json"}
    answer = program.client.post("/v1/chat/completions", content=body, headers=headers)
    (path,) = program_sockets(program)
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=path), base_url="http://engine") as direct:
        straight = direct.post("/v1/chat/completions", content=body, headers=headers)
    assert (answer.status_code, answer.text) == (straight.status_code, straight.text)
    assert answer.status_code == status


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_client_gone(start: StartProgram, stream: bool) -> None:
    """When the client leaves, the engine stops generating, streaming or not."""
    program = start(LONG)
    program.until_ready()
    with socket.create_connection(("127.0.0.1", program.port)) as connection:
        content = json.dumps(CHAT | {"stream": stream, "max_tokens": 1000}).encode()
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(content), content)
        )
        until(lambda: metric(program, "vllm:num_requests_running") == 1, "the request at the engine")
    began = time.monotonic()
    until(lambda: metric(program, "vllm:num_requests_running") == 0, "the engine's stop")
    assert time.monotonic() - began < 10  # the answer takes 50
    assert metric(program, "fake:aborted_total") == 1
    assert "Traceback" not in program.log()


def test_client_gone_in_the_middle_of_its_body(start: StartProgram) -> None:
    """A client that leaves while it still sends harms nobody and is no error of the engine's."""
    program = start()
    program.until_ready()
    with socket.create_connection(("127.0.0.1", program.port)) as connection:
        connection.sendall(
            b"POST /v1/_upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 70_000
        )
    answer = program.client.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200
    assert "Traceback" not in program.log()
    assert "broke off" not in program.log()


def test_stream_cut_by_the_engine(start: StartProgram) -> None:
    """A stream that breaks upstream ends in one error event and no [DONE]: a client can tell."""
    program = start({"cut_after_n_chunks": 3})
    program.until_ready()
    answer = program.client.post("/v1/chat/completions", json=STREAM)
    *_, last = events(answer.text)
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "upstream_error"
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_engine_dies_under_a_request(start: StartProgram, tmp_path: Path, stream: bool) -> None:
    """Where nothing is replayed, a request whose engine dies gets a 502 in the one error shape."""
    program = start(REPLAY_TIMEOUT_SECONDS="0", MAX_RESTARTS="0")
    program.until_ready()
    change_scenario(scenario_of(tmp_path / "engine/bin/python"), first_token_seconds=60)
    engine = psutil.Process(program.engine_pid())
    answers: list[httpx2.Response] = []
    body = CHAT | {"stream": stream}
    client = threading.Thread(
        target=lambda: answers.append(program.client.post("/v1/chat/completions", json=body))
    )
    client.start()
    until(lambda: metric(program, "vllm:num_requests_running") == 1, "the request at the engine")
    engine.kill()
    client.join(20)
    error = json.loads(answers[0].text.removeprefix("data: "))["error"]
    assert answers[0].status_code == 502
    assert error["type"] == "upstream_error"
    assert program.wait() == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [("my-id-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False), (None, False)],
)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/_echo", "/nowhere"])
def test_request_id(start: StartProgram, given: str | None, kept: bool, path: str) -> None:
    """A usable id is kept, anything else replaced; it is in the answer and at the engine."""
    program = start()
    program.until_ready()
    answer = program.client.get(path, headers={} if given is None else {"X-Request-Id": given})
    (identity,) = answer.headers.get_list("x-request-id")
    assert (identity == given) is kept
    assert kept or re.fullmatch("[0-9a-f]{32}", identity)
    if path == "/v1/_echo":
        assert ["x-request-id", identity] in [[n.lower(), v] for n, v in answer.json()["headers"]]


def test_unknown_route(start: StartProgram) -> None:
    """What is not ours and not under /v1/ is a 404 in the one error shape; the engine never sees it."""
    program = start()
    program.until_listening()
    for path in (
        "/docs",
        "/invocations",
        "/v1",
        "/v1/",
        "/v1/load_lora_adapter",
        "/sleep",
        "/v1/chat/completions/",
    ):
        answer = program.client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]["type"] == "NotFoundError"


def test_wrong_method(start: StartProgram) -> None:
    """A probe asked with the wrong method says which is right, in the one error shape."""
    program = start()
    program.until_listening()
    answer = program.client.post("/livez")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.json()["error"]["code"] == 405


def test_many_streams(start: StartProgram) -> None:
    """A hundred streams at once all arrive whole."""
    program = start({"tokens": 20, "tokens_per_second": 40})
    program.until_ready()

    async def all_of_them() -> list[str]:
        async with httpx2.AsyncClient(base_url=program.url, timeout=60) as client:
            answers = await asyncio.gather(
                *(client.post("/v1/chat/completions", json=STREAM) for _ in range(100))
            )
        return [answer.text for answer in answers]

    texts = asyncio.run(all_of_them())
    assert all(text.endswith("data: [DONE]\n\n") for text in texts)
    assert len({len(events(text)) for text in texts}) == 1
