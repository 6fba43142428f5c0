"""More, longer or slower than any client needs: refused early, at no cost to the engine or to others."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.support.fake.fake_engine import change_scenario, scenario_of
from tests.support.hostile import (
    CHAT,
    MAX_BODY_BYTES,
    MAX_CONNECTIONS,
    TIMEOUT_SECONDS,
    Watched,
    watched_program,
)
from tests.support.hostile_cases import AMBIGUOUS, OTHER_PROTOCOLS
from tests.support.program import until
from tests.support.raw_http import ClosedError, Wire, chunk, post_json, request, within

SLACK_SECONDS = 10.0
"""How much later than promised a time-out may come on a busy machine."""
UPLOAD = b"POST /v1/_upload HTTP/1.1\r\nHost: x\r\n"


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
    program.assert_calm()


def many_headers(count: int, length: int) -> Iterator[bytes]:
    """Yield a request with so many headers, in pieces."""
    yield b"GET /v1/_echo HTTP/1.1\r\nHost: x\r\n"
    for first in range(0, count, 100):
        lines = (b"X-%d: %s\r\n" % (number, b"x" * length) for number in range(first, first + 100))
        yield b"".join(lines)
    yield b"\r\n"


BOMBS: dict[str, Callable[[], Iterator[bytes]]] = {
    "10 000 headers": lambda: many_headers(10_000, 1),
    "a million headers": lambda: many_headers(1_000_000, 1),
    "headers of 50 MB": lambda: many_headers(5_000, 10_000),
    "a value of 1 MB": lambda: iter([request("GET", "/v1/_echo", None, "X-A: " + "x" * 1_000_000)]),
    "a value of 50 MB": lambda: iter(
        [b"GET /v1/_echo HTTP/1.1\r\nX: ", *[b"x" * 100_000] * 500, b"\r\n\r\n"]
    ),
    "a name of 1 MB": lambda: iter([request("GET", "/v1/_echo", None, "X" * 1_000_000 + ": 1")]),
    "a name of 50 MB": lambda: iter([b"GET /v1/_echo HTTP/1.1\r\n", *[b"x" * 100_000] * 500, b": 1\r\n\r\n"]),
    "a path of 1 MB": lambda: iter([request("GET", "/v1/_echo?" + "x" * 1_000_000)]),
    "a path of 50 MB": lambda: iter([b"GET /v1/_echo?", *[b"x" * 100_000] * 500, b" HTTP/1.1\r\n\r\n"]),
    "a path without end": lambda: iter([b"GET /v1/_echo?" + b"x" * 1_000_000]),
    "trailers of 50 MB": lambda: iter(
        [
            UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
            *[b"X: %s\r\n" % (b"x" * 100_000)] * 500,
            b"\r\n",
        ]
    ),
    "an extension of 50 MB": lambda: iter(
        [UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n1;", *[b"x" * 100_000] * 500, b"\r\nx\r\n0\r\n\r\n"]
    ),
    "a chunk's size of 50 MB": lambda: iter(
        [UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"0" * 100_000] * 500, b"1\r\nx\r\n0\r\n\r\n"]
    ),
    "empty lines without end": lambda: iter([b"\r\n" * 50_000] * 100),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bomb(gateway: Watched, bomb: Callable[[], Iterator[bytes]]) -> None:
    """A head or trailer larger than any use is refused soon, and is never held in memory."""
    before = gateway.rss()
    with gateway.wire() as connection:
        for piece in bomb():
            if not connection.send(piece):
                break
        # We wrote on, so the refusal may have been lost with the connection.
        with suppress(ClosedError):
            assert connection.reply().status in (400, 408, 413, 414, 431)
    assert gateway.rss() - before < 8e6
    assert gateway.reached() == b""


@pytest.mark.parametrize("size", [30_000, 64_000])
@pytest.mark.parametrize("where", ["path", "header"])
def test_large_head_is_answered(gateway: Watched, size: int, where: str) -> None:
    """A head of some size is served or refused in words; a refusal arrives whole."""
    filler = "x" * size
    target, header = ("/v1/_echo?" + filler, "X-A: 1") if where == "path" else ("/v1/_echo", "X-A: " + filler)
    reply = gateway.ask(request("GET", target, None, header))
    assert reply.status in (200, 414, 431)
    assert reply.status == 200 or gateway.reached() == b""


def test_head_of_4_kb_is_served(gateway: Watched) -> None:
    """A token or a cookie of 4 KB is nothing unusual."""
    assert gateway.ask(request("GET", "/v1/_echo", None, "Authorization: Bearer " + "x" * 4000)).status == 200


SLOW_HEADS = {
    "silent": b"",
    "in the method": b"PO",
    "in the path": b"POST /v1/_ec",
    "in the headers": b"POST /v1/_echo HTTP/1.1\r\nHost: x\r\n",
    "in an empty line": b"\r\n",
}


@pytest.mark.parametrize("data", SLOW_HEADS.values(), ids=SLOW_HEADS.keys())
def test_stalled_head(gateway: Watched, data: bytes) -> None:
    """Who does not finish a head in time is let go."""
    with gateway.wire() as connection:
        began = time.monotonic()
        connection.send(data)
        said = connection.rest()
    assert said == b"" or said.startswith(b"HTTP/1.1 408 ")
    assert within(TIMEOUT_SECONDS + SLACK_SECONDS, began)
    assert gateway.reached() == b""


def test_trickled_head(gateway: Watched) -> None:
    """A byte now and then does not buy time: the limit is for the whole head."""
    with gateway.wire() as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert trickles_until_closed(connection, b"GET /v1/_echo HTTP/1.1\r\n" + b"X: y\r\n" * 100)
    assert gateway.reached() == b""


def test_trickled_second_head(gateway: Watched) -> None:
    """Nor does it on a connection that has had an answer already."""
    with gateway.wire() as connection:
        assert connection.ask(request("GET", "/livez")).status == 200
        assert trickles_until_closed(connection, b"GET /v1/_echo HTTP/1.1\r\n" + b"X: y\r\n" * 100)


def trickles_until_closed(connection: Wire, data: bytes) -> bool:
    """Send a byte every 50 ms; say whether the connection was closed within the time for a head."""
    began = time.monotonic()
    connection.socket.settimeout(0.05)
    for number in range(len(data)):
        if not within(TIMEOUT_SECONDS + SLACK_SECONDS, began):
            return False
        if not connection.send(data[number : number + 1]):
            return True
        # An answer that came before the close is read too: bytes must go on at their pace until then.
        with suppress(TimeoutError):
            connection.rest()
            return True
    return False


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [b"/v1/_upload", b"/v1/chat/completions"])
def test_stalled_body(gateway: Watched, path: bytes, framing: bytes) -> None:
    """Who stops in the middle of a body gets a 408, the connection is closed, and the engine let go."""
    with gateway.wire() as connection:
        began = time.monotonic()
        connection.send(b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n3\r\nabc" % (path, framing))
        reply = connection.reply()
        assert connection.rest() == b""
    assert (reply.status, reply.json()["error"]["code"]) == (408, 408)
    assert within(TIMEOUT_SECONDS + SLACK_SECONDS, began)
    assert not gateway.reached().endswith(b"0\r\n\r\n")


def test_slow_body(gateway: Watched) -> None:
    """A slow but steady body is no attack: it arrives, though it takes longer than a pause may."""
    with gateway.wire() as connection:
        connection.send(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n")
        began = time.monotonic()
        sent = 0
        while within(TIMEOUT_SECONDS * 2, began):
            connection.send(chunk(b"x" * 16_384))
            sent += 16_384
            time.sleep(TIMEOUT_SECONDS / 5)  # a slow client
        reply = connection.ask(b"0\r\n\r\n")
    assert reply.json()["body_bytes"] == sent


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_trickled_body(gateway: Watched, framing: bytes) -> None:
    """A byte now and then does not buy time, however small the body: the engine never hears of it."""
    with gateway.wire() as connection:
        connection.send(b"POST /v1/_upload HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % framing)
        data = chunk(b"x") * 160 if framing.startswith(b"T") else b"x" * 900
        assert trickles_until_closed(connection, data)
    assert gateway.reached() == b""


def test_long_answer_is_no_idle_body(gateway: Watched) -> None:
    """The limits on heads and bodies do not end an answer that takes longer than they allow."""
    scenario = scenario_of(gateway.python)
    change_scenario(scenario, first_token_seconds=TIMEOUT_SECONDS * 2)
    reply = gateway.ask(post_json("/v1/chat/completions", CHAT))
    change_scenario(scenario, first_token_seconds=0)
    assert reply.status == 200


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 100_000_000, 10**18])
def test_announced_body_too_large(gateway: Watched, size: int) -> None:
    """A body that says it is too large is refused at once; the engine sees nothing."""
    with gateway.wire() as connection:
        reply = connection.ask(UPLOAD + b"Content-Length: %d\r\n\r\n" % size)
        assert connection.rest() == b""
    assert (reply.status, reply.json()["error"]["code"]) == (413, 413)
    assert str(MAX_BODY_BYTES) in reply.json()["error"]["message"]
    assert gateway.reached() == b""


def test_announced_and_sent(gateway: Watched) -> None:
    """A client that sends 100 MB without waiting is cut off, and still can read why."""
    with gateway.wire() as connection:
        connection.send(UPLOAD + b"Content-Length: 100000000\r\n\r\n")
        sent = 0
        while sent < 100_000_000 and connection.send(b"x" * 100_000):
            sent += 100_000
        # The kernel drops what was not read yet when a reset comes.
        with suppress(ClosedError):
            assert connection.reply().status == 413
    assert gateway.reached() == b""


@pytest.mark.parametrize("piece", [10_000, 1_000_000])
def test_streamed_body_too_large(gateway: Watched, piece: int) -> None:
    """A body of unknown length is counted as it comes: cut off at the limit, never passed on as whole."""
    before = gateway.rss()
    with gateway.wire() as connection:
        connection.send(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        while sent < 100_000_000 and connection.send(chunk(b"x" * piece)):
            sent += piece
        with suppress(ClosedError):
            assert connection.reply().status == 413
    assert sent < 100_000_000
    assert gateway.rss() - before < 8e6
    assert len(gateway.reached()) < MAX_BODY_BYTES * 1.2
    assert not gateway.reached().endswith(b"0\r\n\r\n")


def test_streamed_body_a_little_too_large(gateway: Watched) -> None:
    """A client that has sent all of it reads the 413."""
    with gateway.wire() as connection:
        connection.send(UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.send(chunk(b"x" * MAX_BODY_BYTES) + chunk(b"y") + b"0\r\n\r\n")
        reply = connection.reply()
        assert connection.rest() == b""
    assert (reply.status, reply.json()["error"]["code"]) == (413, 413)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_largest_body(gateway: Watched, framing: str) -> None:
    """A body of just the limit is passed on."""
    body = b"x" * MAX_BODY_BYTES
    if framing == "length":
        data = request("POST", "/v1/_upload", body)
    else:
        data = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(body) + b"0\r\n\r\n"
    assert gateway.ask(data).json()["body_bytes"] == MAX_BODY_BYTES


def test_many_tiny_chunks(gateway: Watched) -> None:
    """A body in pieces of one byte costs no memory and arrives whole."""
    before = gateway.rss()
    data = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"x") * 100_000 + b"0\r\n\r\n"
    reply = gateway.ask(data)
    assert reply.json()["body_bytes"] == 100_000, reply
    assert gateway.rss() - before < 8e6


TRAILERS = b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
RESTS = {
    "trailers": (TRAILERS, b"X: %s\r\n" % (b"x" * 100_000)),
    "one trailer": (TRAILERS + b"X: ", b"x" * 100_000),
    "a body": (b"Content-Length: 100000000\r\n\r\n", b"x" * 100_000),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", chunk(b"x") * 10_000),
}


@pytest.mark.parametrize(("head", "piece"), RESTS.values(), ids=RESTS.keys())
def test_what_follows_an_early_answer(gateway: Watched, head: bytes, piece: bytes) -> None:
    """After a refusal nothing more is looked at or kept, and the connection is not there for ever."""
    before = gateway.rss()
    with gateway.wire() as connection:
        reply = connection.ask(b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\n" + head)
        sent = 0
        while sent < 100_000_000 and connection.send(piece):
            sent += len(piece)
    assert reply.status == 404
    assert sent < 100_000_000
    assert gateway.rss() - before < 8e6
    assert gateway.reached() == b""


@pytest.mark.parametrize("length", [1000, 1_000_000])
def test_a_body_that_stops_after_an_early_answer(gateway: Watched, length: int) -> None:
    """The answer can be read, and then the connection is closed, as it says where the rest is large."""
    with gateway.wire() as connection:
        reply = connection.ask(request("POST", "/v1/nothing", None, f"Content-Length: {length}") + b"x")
        assert connection.rest() == b""
    assert reply.status == 404
    assert reply.header("connection") == (None if length == 1000 else "close")


def test_a_small_body_after_an_early_answer(gateway: Watched) -> None:
    """Where little is left it is read to its end, and the connection serves the next request."""
    with gateway.wire() as connection:
        assert connection.ask(request("POST", "/v1/nothing", None, "Content-Length: 5")).status == 404
        assert connection.ask(b"12345" + request("GET", "/livez")).status == 200


def test_flood(gateway: Watched) -> None:
    """Far more connections than allowed: what is held stays bounded, and afterwards all is well."""
    before = gateway.fds()
    with ExitStack() as stack:
        for _ in range(2 * MAX_CONNECTIONS):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", gateway.port))
        most = 0

        def settled() -> bool:
            nonlocal most
            now = gateway.fds()
            grows, most = now > most, max(now, most)
            return not grows and most > before

        until(settled, "an end of new connections")
        assert most - before <= MAX_CONNECTIONS + 10
    until(lambda: gateway.fds() <= before + 2, "the close of all")


def test_flood_that_stays(gateway: Watched) -> None:
    """Silent connections that use up the limit are let go in time, so that others get in."""
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 20):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", gateway.port))
        began = time.monotonic()

        def served() -> bool:
            try:
                return gateway.ask(request("GET", "/livez", None, "Connection: close")).status == 200
            except (ClosedError, OSError):
                return False

        until(served, "an answer in a flood", TIMEOUT_SECONDS + SLACK_SECONDS)
        assert within(TIMEOUT_SECONDS + SLACK_SECONDS, began)


def test_metrics_do_not_grow(gateway: Watched) -> None:
    """No client can make new time series: paths, methods, models and keys of its own are no labels."""
    strange_requests(gateway, range(3))
    before = series(gateway)
    strange_requests(gateway, range(3, 100))
    assert series(gateway) == before
    assert not [name for name in before if re.search(r"strange\d+", name)]


def strange_requests(gateway: Watched, numbers: range) -> None:
    """Ask with names that nobody has asked with before, wherever a client may choose one."""
    for number in numbers:
        name = f"strange{number}"
        with gateway.wire() as connection:
            for data in (
                request("GET", f"/v1/{name}"),
                request("GET", f"/{name}"),
                request("GET", f"/v1/responses/{name}"),
                request("GET", "/v1/models", None, f"Authorization: Bearer {name}", f"X-Request-Id: {name}"),
                post_json("/v1/chat/completions", CHAT | {"model": name, "user": name}),
                post_json("/v1/chat/completions", CHAT | {"user": name}, f"User-Agent: {name}"),
            ):
                connection.ask(data)


def series(gateway: Watched) -> set[str]:
    """Return the names and labels of the gateway's own metrics."""
    reply = gateway.ask(request("GET", "/metrics"))
    assert reply.status == 200
    return set(re.findall(r"^(gateway_\S+) ", reply.body.decode(), re.MULTILINE))


def test_nothing_is_kept(gateway: Watched) -> None:
    """A thousand attacks later the gateway holds no more memory and no more files than after the first ones."""

    def attack(rounds: int) -> None:
        for _ in range(rounds):
            for data in (*(text.encode("latin-1") for text in AMBIGUOUS.values()), *OTHER_PROTOCOLS.values()):
                with gateway.wire() as connection:
                    connection.send(data)
                    connection.socket.shutdown(socket.SHUT_WR)
                    connection.rest()

    attack(4)
    memory, files = gateway.rss(), gateway.fds()
    attack(14)
    assert gateway.rss() - memory < 2e6
    until(lambda: gateway.fds() <= files + 1, "the close of all")
    assert b"smuggled" not in gateway.reached()


def test_json_errors_are_ours(gateway: Watched) -> None:
    """What we refuse ourselves is refused in the one error shape, with an id."""
    for data in (
        request("GET", "/v1/nothing"),
        request("DELETE", "/v1/models"),
        request("POST", "/livez", b""),
        UPLOAD + b"Content-Length: 9999999999\r\n\r\n",
    ):
        reply = gateway.ask(data)
        assert set(json.loads(reply.body)["error"]) == {"message", "type", "param", "code"}
        assert reply.header("content-type") == "application/json"
        assert reply.header("x-request-id")
