"""Connections used in ways that no client library uses them, and what hostile bytes do to our log."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from tests.support.fake.fake_engine import change_scenario, scenario_of
from tests.support.hostile import CHAT, MAX_BODY_BYTES, Watched, watched_program
from tests.support.program import until
from tests.support.raw_http import chunk, post_json, request

STREAM = CHAT | {"stream": True}
ENDLESS = {"tokens": 2000, "tokens_per_second": 20}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One program for all of these tests."""
    with watched_program(tmp_path_factory.mktemp("hostile"), {"tokens": 8}) as watched:
        yield watched


@pytest.fixture
def gateway(program: Watched) -> Iterator[Watched]:
    """The program, and what every test asserts at its end."""
    program.mark()
    yield program
    change_scenario(scenario_of(program.python), tokens=8, tokens_per_second=0, first_token_seconds=0)
    program.assert_calm()


def runs(gateway: Watched, count: int) -> bool:
    """Say whether so many requests run at the engine."""
    return gateway.metric("vllm:num_requests_running") == count


def test_connections_to_the_engine_are_kept(gateway: Watched) -> None:
    """Requests one after another share a connection to the engine, whoever sends them."""
    before = gateway.connections()
    for stream in (False, True) * 10:
        assert gateway.ask(post_json("/v1/chat/completions", CHAT | {"stream": stream})).status == 200
    assert gateway.connections() - before <= 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_http_1_0(gateway: Watched, stream: bool) -> None:
    """A client of HTTP/1.0, as nginx is by default, gets no chunks: its answer ends with the connection."""
    body = json.dumps(CHAT | {"stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Type: application/json\r\n"
    with gateway.wire() as connection:
        reply = connection.ask(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert connection.rest() == b""
    assert reply.header("transfer-encoding") is None
    assert reply.body.endswith(b"data: [DONE]\n\n" if stream else b"}")


def test_pipelining(gateway: Watched) -> None:
    """Many requests in one packet, a stream among them, are answered one by one in their order."""
    asked = [request("POST", f"/v1/_echo?{number}", b"x" * number) for number in range(40)]
    asked[20] = post_json("/v1/chat/completions", STREAM)
    asked[30] = request("GET", "/v1/nothing")
    with gateway.wire() as connection:
        connection.send(b"".join(asked))
        replies = [connection.reply() for _ in asked]
    for number in set(range(40)) - {20, 30}:
        echoed = replies[number].json()
        assert (echoed["query"], echoed["body_bytes"]) == (str(number), number)
    assert replies[20].body.endswith(b"data: [DONE]\n\n")
    assert replies[30].status == 404


@pytest.mark.parametrize("filler", ["", f"X-Filler: {'x' * 900}"], ids=["smallest", "ordinary"])
def test_pipelining_without_end(gateway: Watched, filler: str) -> None:
    """Requests piled up behind a stream are not all taken in, and its client's leaving is still seen."""
    change_scenario(scenario_of(gateway.python), **ENDLESS)
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
    until(lambda: runs(gateway, 0), "the engine's stop")
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


def test_pipelined_after_a_wait(gateway: Watched) -> None:
    """Everything that was piled up is answered in its order, once the answer before it has ended."""
    change_scenario(scenario_of(gateway.python), tokens=8, tokens_per_second=8)
    asked = [request("GET", f"/v1/_echo?{number}", None, f"X-Filler: {'x' * 900}") for number in range(200)]
    with gateway.wire() as connection:
        connection.send(post_json("/v1/chat/completions", STREAM) + b"\r\n" + b"".join(asked))
        assert connection.reply().body.endswith(b"data: [DONE]\n\n")
        assert [connection.reply().json()["query"] for _ in asked] == [str(n) for n in range(200)]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_pipelined_and_gone(gateway: Watched, stream: bool) -> None:
    """A client that leaves is noticed though another request of its waits behind the first."""
    change_scenario(scenario_of(gateway.python), **ENDLESS)
    with gateway.wire() as connection:
        first = post_json("/v1/chat/completions", CHAT | {"stream": stream, "max_tokens": 1500})
        connection.send(first + request("GET", "/v1/_echo?behind"))
        until(lambda: runs(gateway, 1), "the request at the engine")
    until(lambda: runs(gateway, 0), "the engine's stop")
    assert b"behind" not in gateway.reached()


@pytest.mark.parametrize("size", [60_000, 130_000, 300_000, 900_000])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_gone_after_a_large_body(gateway: Watched, stream: bool, size: int) -> None:
    """A client's leaving is noticed after a long prompt too, before and after the first token."""
    change_scenario(scenario_of(gateway.python), first_token_seconds=30)
    with gateway.wire() as connection:
        body = CHAT | {"stream": stream, "user": "x" * size}
        connection.send(post_json("/v1/chat/completions", body))
        until(lambda: runs(gateway, 1), "the request at the engine")
    began = time.monotonic()
    until(lambda: runs(gateway, 0), "the engine's stop")
    assert time.monotonic() - began < 15  # its first token would have taken 30


@pytest.mark.parametrize("size", [10, 200_000])
def test_expectation(gateway: Watched, size: int) -> None:
    """`Expect: 100-continue` is answered with 100, then with the answer; the engine never sees it."""
    body = b"x" * size
    head, _, _ = request("POST", "/v1/_echo", body, "Expect: 100-continue").partition(b"x" * size)
    with gateway.wire() as connection:
        assert connection.ask(head).status == 100
        assert connection.ask(body).json()["body_bytes"] == size
    assert b"expect" not in gateway.reached().lower()


def test_expectation_of_what_is_too_large(gateway: Watched) -> None:
    """A body that is announced and too large is refused before it is sent, without a 100."""
    length = f"Content-Length: {MAX_BODY_BYTES + 1}"
    reply = gateway.ask(request("POST", "/v1/_echo", None, "Expect: 100-continue", length))
    assert reply.status == 413
    assert gateway.reached() == b""


def test_expectation_of_no_route(gateway: Watched) -> None:
    """What is refused by its path is refused before its body is sent."""
    reply = gateway.ask(request("POST", "/v1/no", None, "Expect: 100-continue", "Content-Length: 9"))
    assert reply.status == 404


def test_other_expectation(gateway: Watched) -> None:
    """An expectation that nobody knows is refused or ignored, and not passed on."""
    reply = gateway.ask(request("POST", "/v1/_echo", b"x", "Expect: the-unexpected"))
    assert reply.status in (200, 417)
    assert b"unexpected" not in gateway.reached()


@pytest.mark.parametrize("path", ["/v1/_echo", "/v1/realtime", "/livez", "/"])
def test_websocket(gateway: Watched, path: str) -> None:
    """A wish for a websocket is answered as if it were not there, and nothing is upgraded."""
    wish = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: eA==",
    )
    with gateway.wire() as connection:
        reply = connection.ask(request("GET", path, None, *wish))
    assert reply.status == {"/v1/realtime": 404}.get(path, 200)
    assert b"upgrade" not in gateway.reached().lower()


def test_upgrade_with_a_body(gateway: Watched) -> None:
    """A body is not lost because its request also offers an upgrade, as curl's `--http2` does."""
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    with gateway.wire() as connection:
        reply = connection.ask(post_json("/v1/chat/completions", CHAT, *offer))
    assert reply.json()["object"] == "chat.completion"


def test_upgrade_with_a_request_behind(gateway: Watched) -> None:
    """What stands behind an offered upgrade is another request or nothing, never part of the first."""
    offer = ("Connection: Upgrade", "Upgrade: x")
    with gateway.wire() as connection:
        connection.send(request("GET", "/v1/_echo?1", None, *offer) + request("GET", "/v1/_echo?2"))
        assert connection.reply().json()["query"] == "1"
    assert gateway.reached().count(b"/v1/_echo?1") == 1
    assert gateway.reached().count(b"/v1/_echo?2") <= 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("seconds", [0, 2])
def test_half_close(gateway: Watched, stream: bool, seconds: float) -> None:
    """A client that has closed its sending side gets its whole answer, before or after an interim one."""
    change_scenario(scenario_of(gateway.python), first_token_seconds=seconds)
    with gateway.wire() as connection:
        connection.send(post_json("/v1/chat/completions", CHAT | {"stream": stream}))
        connection.socket.shutdown(socket.SHUT_WR)
        reply = connection.reply()
        while reply.status == 102:
            reply = connection.reply()
        assert connection.rest() == b""
    assert reply.status == 200
    assert reply.body.endswith(b"data: [DONE]\n\n" if stream else b"}")


def test_half_close_of_http_1_0(gateway: Watched) -> None:
    """There are no interim answers in HTTP/1.0: who waits long is taken for gone, who need not is answered."""
    change_scenario(scenario_of(gateway.python), first_token_seconds=30)
    body = json.dumps(CHAT).encode()
    slow = b"\r\n".join(
        (
            b"POST /v1/chat/completions HTTP/1.0",
            b"Content-Type: application/json",
            b"Content-Length: %d" % len(body),
            b"",
            body,
        )
    )
    for asked, status in ((b"GET /v1/models HTTP/1.0\r\n\r\n", b"HTTP/1.1 200 OK"), (slow, b"")):
        with gateway.wire() as connection:
            connection.send(asked)
            connection.socket.shutdown(socket.SHUT_WR)
            assert connection.rest().partition(b"\r\n")[0] == status
    until(lambda: runs(gateway, 0), "the engine's stop")


def test_half_close_behind_others(gateway: Watched) -> None:
    """So does one that had sent several requests: all are answered, then the connection is closed."""
    asked = [request("GET", f"/v1/_echo?{number}") for number in range(20)]
    with gateway.wire() as connection:
        connection.send(b"".join(asked))
        connection.socket.shutdown(socket.SHUT_WR)
        assert [connection.reply().json()["query"] for _ in asked] == [str(n) for n in range(20)]
        assert connection.rest() == b""


@pytest.mark.parametrize("piece", [b"", b"POST", b"POST /v1/_echo HTTP/1.1\r\nHost: x\r\n"])
def test_end_before_the_head(gateway: Watched, piece: bytes) -> None:
    """A client that ends before its head does is let go, and nothing reaches the engine."""
    before = gateway.fds()
    with gateway.wire() as connection:
        connection.send(piece)
        connection.socket.shutdown(socket.SHUT_WR)
        assert not connection.rest().startswith(b"HTTP/1.1 5")
    until(lambda: gateway.fds() <= before, "the close")
    assert gateway.reached() == b""


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_end_before_the_body(gateway: Watched, framing: str) -> None:
    """A body that ends too soon is never passed on as if it were whole."""
    with gateway.wire() as connection:
        connection.send(request("POST", "/v1/chat/completions", None, framing))
        connection.send(chunk(json.dumps(CHAT).encode()))
        connection.socket.shutdown(socket.SHUT_WR)
        assert not connection.rest().startswith((b"HTTP/1.1 5", b"HTTP/1.1 2"))
    assert not gateway.reached().endswith(b"0\r\n\r\n")
    assert gateway.metric("vllm:num_requests_running") == 0


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


def test_log_takes_no_orders(gateway: Watched) -> None:
    """No client can write a line of its own, or a terminal's control codes, into the log."""
    evil = "%0a12:00:00 CRITICAL forged%1b[2J%0d%00"
    for target in (f"/v1/{evil}", f"/{evil}", f"/v1/_echo?{evil}", f"/v1/responses/{evil}"):
        gateway.ask(request("GET", target.replace(" ", "%20")))
    gateway.ask(request("GET", "/v1/_echo", None, "X-Request-Id: a\x1b[2J", "User-Agent: b\x1b[31m"))
    gateway.ask(request("GET", "/v1/_echo", None, "Authorization: Bearer c\x1b[2J"))
    log = gateway.logged()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", log)
    assert not [line for line in log.splitlines() if line.startswith("12:00:00 CRITICAL")]


def test_answer_takes_no_orders(gateway: Watched) -> None:
    """No client can write a header into an answer."""
    for data in (
        request("GET", "/v1/x%0d%0aX-Evil:%201"),
        request("GET", "/x%0d%0aX-Evil:%201"),
        request("GET", "/v1/_echo?x%0d%0aX-Evil:%201"),
        request("GET", "/v1/models", None, "X-Request-Id: a%0d%0aX-Evil: 1"),
        request("GET", "/v1/_echo", None, "X-Request-Id: a\x85X-Evil: 1"),
    ):
        reply = gateway.ask(data)
        assert reply.status < 500
        assert reply.header("X-Evil") is None
        assert re.fullmatch("[\x21-\x7e]{1,128}", reply.header("x-request-id") or "")
