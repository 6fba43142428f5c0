"""Connections used in ways that no client library uses them: order, half closes, resets, and how they end."""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.model import CHAT, STREAM
from tests.support.program import until
from tests.support.raw_http import Reply, Wire, chunk, post_json, request
from tests.support.watched import Watched, watched_program

KEEP_ALIVE_SECONDS = 1.5
SETTINGS = {"MAX_BODY_BYTES": "1000000", "CLIENT_KEEP_ALIVE_SECONDS": str(KEEP_ALIVE_SECONDS)}
ENDLESS = {"tokens": 2000, "tokens_per_second": 20}
BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def test_connections_to_the_engine_are_kept(gateway: Watched) -> None:
    """Requests one after another share a connection to the engine, whoever sends them."""
    before = gateway.connections()
    for stream in (False, True) * 10:
        assert gateway.ask(post_json("/v1/chat/completions", CHAT | {"stream": stream})).status == 200
    assert gateway.connections() - before <= 1


@BOTH
def test_http_1_0(gateway: Watched, stream: bool) -> None:
    """A client of HTTP/1.0, as nginx is by default, gets no chunks: its answer ends with the connection."""
    body = json.dumps(CHAT | {"stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
    with gateway.wire() as connection:
        reply = connection.ask(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert connection.rest() == b""
    assert reply.header("transfer-encoding") is None
    assert reply.body.endswith(b"data: [DONE]\n\n" if stream else b"}")


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


@pytest.mark.parametrize("filler", ["", f"X-Filler: {'x' * 900}"], ids=["smallest", "ordinary"])
def test_pipelining_without_end(gateway: Watched, filler: str) -> None:
    """Requests piled up behind a stream are not all taken in, and its client's leaving is still seen."""
    gateway.change(**ENDLESS)
    piled = request("GET", "/v1/_echo?behind", None, *filter(None, (filler,))) * 1000
    with gateway.wire() as connection:
        connection.send(post_json("/v1/chat/completions", STREAM))
        assert connection.socket.recv(16) == b"HTTP/1.1 200 OK\r"
        before = gateway.rss()
        connection.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            for _ in range(1000):
                connection.socket.sendall(piled)
        assert gateway.rss() - before < 2e6
    gateway.until_running(0)
    assert b"behind" not in gateway.reached()


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


def test_expectations(gateway: Watched) -> None:
    """`Expect: 100-continue` is answered with 100, or at once with the refusal; the engine never sees one."""
    for body in (b"x" * 10, b"x" * 200_000):
        head = request("POST", "/v1/_echo", None, "Expect: 100-continue", f"Content-Length: {len(body)}")
        with gateway.wire() as connection:
            assert connection.ask(head).status == 100
            assert connection.ask(body).json()["body_bytes"] == len(body)
    for path, length, status in (("/v1/_echo", 1_000_001, 413), ("/v1/no", 9, 404)):
        refused = request("POST", path, None, "Expect: 100-continue", f"Content-Length: {length}")
        assert gateway.ask(refused).status == status
    assert gateway.ask(request("POST", "/v1/_echo", b"x", "Expect: the-unexpected")).status == 200
    assert gateway.reached().lower().count(b"post /v1/_echo ") == 3
    assert b"expect" not in gateway.reached().lower()


def test_upgrades(gateway: Watched) -> None:
    """An offer to upgrade is answered as if it were not there, and no body or request behind it is lost to it."""
    wish = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: eA==",
    )
    for path, status in (("/v1/_echo", 200), ("/v1/realtime", 404), ("/livez", 200), ("/", 200)):
        assert gateway.ask(request("GET", path, None, *wish)).status == status
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    reply = gateway.ask(post_json("/v1/chat/completions", CHAT, *offer))
    assert reply.json()["object"] == "chat.completion"
    with gateway.wire() as connection:
        connection.send(request("GET", "/v1/_echo?1", None, *offer) + request("GET", "/v1/_echo?2"))
        assert connection.reply().json()["query"] == "1"
    assert gateway.reached().count(b"/v1/_echo?1") == 1
    assert b"upgrade" not in gateway.reached().lower()


@BOTH
@pytest.mark.parametrize("seconds", [0, 2])
def test_half_close(gateway: Watched, stream: bool, seconds: float) -> None:
    """A client that has closed its sending side gets its whole answer, before or after an interim one."""
    gateway.change(first_token_seconds=seconds)
    with gateway.wire() as connection:
        connection.send(post_json("/v1/chat/completions", CHAT | {"stream": stream}))
        connection.socket.shutdown(socket.SHUT_WR)
        reply = final_reply(connection)
        assert connection.rest() == b""
    assert reply.status == 200
    assert reply.body.endswith(b"data: [DONE]\n\n" if stream else b"}")


def test_half_close_of_http_1_0(gateway: Watched) -> None:
    """There are no interim answers in HTTP/1.0: who waits long is taken for gone, who need not is answered."""
    gateway.change(first_token_seconds=600)
    slow = post_json("/v1/chat/completions", CHAT).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    for asked, status in ((b"GET /v1/models HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"), (slow, b"")):
        with gateway.wire() as connection:
            connection.send(asked)
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.rest().partition(b"\r\n")[0] == status


def test_end_before_the_request_does(gateway: Watched) -> None:
    """A head or body that ends too soon is never passed on as if it were whole, and leaves nothing."""
    before = gateway.fds()
    whole = post_json("/v1/chat/completions", STREAM)
    chunked = request("POST", "/v1/chat/completions", None, "Transfer-Encoding: chunked")
    for piece in (b"", b"POST", whole[:40], whole[:-1], chunked, chunked + chunk(json.dumps(CHAT).encode())):
        with gateway.wire() as connection:
            connection.send(piece)
            connection.socket.shutdown(socket.SHUT_WR)
            assert not connection.rest().startswith((b"HTTP/1.1 5", b"HTTP/1.1 2"))
    until(lambda: gateway.fds() <= before, "the close of all")
    assert gateway.reached() == b""


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


def test_idle_connections_end(gateway: Watched) -> None:
    """A connection waits for a request for CLIENT_KEEP_ALIVE_SECONDS; empty lines are no request."""
    with gateway.wire() as silent, gateway.wire() as talking:
        assert silent.ask(request("GET", "/livez")).status == 200
        assert talking.ask(request("GET", "/livez") + b"\r\n").status == 200
        talking.send(b"\r\n")
        assert (silent.rest(), talking.rest()) == (b"", b"")


def test_connections_end_with_the_service(tmp_path: Path) -> None:
    """In the lame-duck time each answer is its connection's last; idle ones are closed when the drain begins."""
    variables = {"LAME_DUCK_SECONDS": "2", "DRAIN_TIMEOUT_SECONDS": "60"}
    slow = {"tokens": 100, "tokens_per_second": 16}
    with watched_program(tmp_path, slow, **variables) as gateway, ExitStack() as stack:
        busy, pooled, idle = (stack.enter_context(gateway.wire()) for _ in range(3))
        for connection in (pooled, idle):
            assert connection.ask(request("GET", "/v1/models")).header("connection") is None
        busy.send(post_json("/v1/chat/completions", STREAM))
        gateway.until_running(1)
        gateway.program.send(signal.SIGTERM)
        until(lambda: gateway.program.client.get("/healthz").status_code == 503, "the lame duck")
        reply = pooled.ask(request("GET", "/v1/models"))
        assert (reply.status, reply.header("connection")) == (200, "close")
        assert (pooled.rest(), idle.rest()) == (b"", b"")
        late = gateway.ask(request("GET", "/v1/models"))
        assert (late.status, late.header("connection")) == (503, "close")
        assert busy.reply().body.endswith(b"data: [DONE]\n\n")
        assert busy.rest() == b""
        assert gateway.program.wait() == 0
