"""/v1/*: bytes through unchanged in both directions, unbuffered, and what clients are told when it breaks off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import openai
import pytest

from tests.support.model import CHAT, STREAM
from tests.support.program import until
from tests.support.raw_http import post_json, request
from tests.support.watched import Watched

MESSAGE: Any = {"model": "fake", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}


def test_echo(gateway: Watched) -> None:
    """Method, path, query, headers and body reach the engine as they were sent; what concerns one hop does not."""
    body = bytes(range(256)) * 1000
    headers = {"X-Mine": "1", "Authorization": "Bearer x", "Connection": "keep-alive, X-Hop", "X-Hop": "1"}
    answer = gateway.program.client.put("/v1/_echo?a=%2F&b=1&b=2", content=body, headers=headers)
    echoed = answer.json()
    reached = {name.lower(): value for name, value in echoed["headers"]}
    assert (echoed["method"], echoed["query"]) == ("PUT", "a=%2F&b=1&b=2")
    assert echoed["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert (reached["x-mine"], reached["authorization"]) == ("1", "Bearer x")
    assert reached["content-length"] == str(len(body))
    assert not {"x-hop", "transfer-encoding"} & set(reached)


def test_chunked_upload(gateway: Watched) -> None:
    """A body of unknown length is passed on whole and in order."""

    def pieces() -> Iterator[bytes]:
        for number in range(200):
            yield bytes([number]) * 10_000

    answer = gateway.program.client.post("/v1/_echo", content=pieces())
    assert answer.json()["body_sha256"] == hashlib.sha256(b"".join(pieces())).hexdigest()


def test_stream_is_unbuffered(gateway: Watched) -> None:
    """Events arrive as the engine makes them: also those of an answer that goes no further."""
    gateway.change(stall_after_n_chunks=3)
    with gateway.program.client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-accel-buffering"] == "no"
        lines = filter(None, answer.iter_lines())
        assert [json.loads(next(lines).removeprefix("data: "))["object"] for _ in range(4)]
        gateway.until_running(1)


@pytest.mark.parametrize(
    ("body", "status"),
    [(CHAT | {"model": "other"}, 404), ({"model": "fake"}, 400), (CHAT | {"temperature": -1}, 400)],
)
def test_engine_errors_pass_through(gateway: Watched, body: dict[str, Any], status: int) -> None:
    """The engine's own errors are the client's, word by word."""
    data = post_json("/v1/chat/completions", body)
    reply, straight = gateway.ask(data), gateway.straight(data)
    assert (reply.status, reply.body) == (straight.status, straight.body)
    assert reply.status == status


def test_client_leaves_in_the_middle_of_its_body(gateway: Watched) -> None:
    """A client that leaves while it still sends harms nobody and is no error of the engine's."""
    with gateway.wire() as connection:
        connection.send(request("POST", "/v1/_upload", None, "Content-Length: 1000000") + b"x" * 70_000)
        until(lambda: gateway.program.metric("gateway_bodies_incomplete") == 1, "the beginning of its body")
    until(lambda: gateway.program.metric("gateway_bodies_incomplete") == 0, "the end of its request")
    assert gateway.program.chat().status_code == 200
    until(lambda: "POST /v1/_upload" in gateway.logged(), "its line in the log")
    until(lambda: "client_gone" in gateway.logged(), "how it ended")


def test_many_streams(gateway: Watched) -> None:
    """A hundred streams at once all arrive whole."""
    gateway.change(tokens=20, tokens_per_second=40)
    with ExitStack() as stack:
        wires = [stack.enter_context(gateway.wire()) for _ in range(100)]
        for connection in wires:
            connection.send(post_json("/v1/chat/completions", STREAM))
        bodies = [connection.reply().body for connection in wires]
    assert all(body.endswith(b"data: [DONE]\n\n") for body in bodies)
    assert {body.count(b"\n\n") for body in bodies} == {22}


def test_broken_streams_raise(gateway: Watched) -> None:
    """Half an answer ends in one error event and raises in each SDK: none may take it for a whole one."""
    gateway.change(cut_after_n_chunks=3)
    *_, last = gateway.program.chat(stream=True).text.removesuffix("\n\n").split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "upstream_error"
    claude = anthropic.Anthropic(base_url=gateway.program.url, api_key="none", max_retries=0)
    with (
        pytest.raises(anthropic.APIStatusError, match="broke off") as broken,
        claude.messages.stream(**MESSAGE) as stream,
    ):
        list(stream)
    assert broken.value.type == "api_error"
    client = openai.OpenAI(base_url=f"{gateway.program.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(stream=True, **CHAT))
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.responses.create(model="fake", input="Hi", stream=True))
    answer = gateway.program.client.post(
        "/v1/responses", json={"model": "fake", "input": "Hi", "stream": True}
    )
    *events, last = answer.text.strip().split("\n\n")
    assert json.loads(last.partition("data: ")[2])["sequence_number"] == len(events)


def test_refusals_in_the_dialect_of_the_route(gateway: Watched) -> None:
    """What is refused is in the shape of the API that was asked, also where the head itself is broken."""
    claude = anthropic.Anthropic(base_url=gateway.program.url, api_key="none", max_retries=0)
    assert claude.messages.create(**MESSAGE).content
    for kind, path in (
        ("not_found_error", "/v1/messages/nothing"),
        ("invalid_request_error", "/v1/messages"),
    ):
        with pytest.raises(anthropic.APIStatusError) as refused:
            claude.get(path, cast_to=object)
        assert refused.value.type == kind
        assert refused.value.response.json()["request_id"] == refused.value.response.headers["x-request-id"]
    for head, shape in (
        (b"POST /v1/messages?beta=true HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n", "error"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n", None),
        (b"nothing that is known\r\n\r\n", None),
    ):
        reply = gateway.ask(head)
        assert (reply.status, reply.json().get("type")) == (400, shape), head
