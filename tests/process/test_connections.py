"""Connections used in ways that no client library uses them: order, half closes, resets, and how they end."""

from __future__ import annotations

import socket

import pytest

from tests.support.model import CHAT, STREAM
from tests.support.program import until
from tests.support.raw_http import Reply, Wire, post_json, request
from tests.support.watched import Watched

BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def test_connections_to_the_engine_are_kept(gateway: Watched) -> None:
    """Requests one after another share a connection to the engine, whoever sends them."""
    before = gateway.connections()
    for stream in (False, True) * 10:
        assert gateway.ask(post_json("/v1/chat/completions", CHAT | {"stream": stream})).status == 200
    # The questions to the engine itself have connections of their own.
    assert gateway.connections() - before < 5


def final_reply(connection: Wire) -> Reply:
    """Return the next answer that is not an interim one."""
    while (reply := connection.reply()).status == 102:
        pass
    return reply


def test_pipelining(gateway: Watched) -> None:
    """Requests in one packet, and behind a slow stream, are answered one by one in their order."""
    gateway.change(tokens_per_second=8)
    filler = f"X-Filler: {'x' * 900}"
    asked = [request("POST", f"/v1/_echo?{number}", b"x" * number, filler) for number in range(200)]
    asked[0] = post_json("/v1/chat/completions", STREAM) + b"\r\n"
    asked[30] = request("GET", "/v1/nothing")
    with gateway.wire() as connection:
        connection.send(b"".join(asked))
        connection.socket.shutdown(socket.SHUT_WR)
        replies = [final_reply(connection) for _ in asked]
        assert connection.rest() == b""
    for number in set(range(200)) - {0, 30}:
        echoed = replies[number].json()
        assert (echoed["query"], echoed["body_bytes"]) == (str(number), number)
    assert replies[0].body.endswith(b"data: [DONE]\n\n")
    assert replies[30].status == 404


@pytest.mark.parametrize("path", ["/livez", "/v1/_echo"])
def test_pipelining_of_one_who_reads_nothing(gateway: Watched, path: str) -> None:
    """Answers are not made ahead of a client that does not read them, nor is what it sends piled up."""
    piled = request("POST", path, b"{}") * 1000
    gateway.ask(piled)
    before = gateway.rss()
    with gateway.wire() as connection:
        connection.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            for _ in range(10_000):
                connection.socket.sendall(piled)
        assert gateway.rss() - before < 2e6


@BOTH
@pytest.mark.parametrize("size", [0, 130_000, 900_000])
def test_client_leaves(gateway: Watched, stream: bool, size: int) -> None:
    """A leaving is noticed before the first token, after a long prompt, and with a request waiting behind."""
    gateway.change(first_token_seconds=600)
    with gateway.wire() as connection:
        first = post_json("/v1/chat/completions", CHAT | {"stream": stream, "user": "x" * size})
        connection.send(first + (b"" if size else request("GET", "/v1/_echo?behind")))
        gateway.until_running(1)
    gateway.until_running(0)
    assert b"behind" not in gateway.reached()


def test_reset_in_every_place(gateway: Watched) -> None:
    """A connection that is reset after any byte of a request harms nobody and leaves nothing."""
    data = post_json("/v1/chat/completions", STREAM)
    before = gateway.fds()
    for end in range(0, len(data) + 1, 7):
        with gateway.wire() as connection:
            connection.send(data[:end])
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    # One pooled connection to the engine may stay.
    until(lambda: gateway.fds() <= before + 1, "the close of all")
