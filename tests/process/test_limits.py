"""More, longer or slower than any client needs: refused early, at no cost to the engine or to others."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.process.conftest import StartProgram
from tests.support.model import CHAT, STREAM
from tests.support.program import Program, until
from tests.support.raw_http import ClosedError, Wire, chunk, post_json, request, wire
from tests.support.watched import Watched

MAX_BODY_BYTES = 1_000_000
TIMEOUT_SECONDS = 1.0
MAX_CONNECTIONS = 200
SETTINGS = {
    "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    "HEADER_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "BODY_IDLE_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "MAX_CONNECTIONS": str(MAX_CONNECTIONS),
    "MAX_IN_FLIGHT": "4",
    "MAX_QUEUE": "0",
}
UPLOAD = b"POST /v1/_upload HTTP/1.1\r\nHost: x\r\n"
IN_CHUNKS = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n"
SLACK_BYTES = 8e6


def large(head: bytes, piece: bytes, end: bytes) -> Callable[[], Iterator[bytes]]:
    """Return what yields 50 MB between a beginning and an end."""

    def pieces() -> Iterator[bytes]:
        yield head
        for _ in range(50_000_000 // len(piece)):
            yield piece
        yield end

    return pieces


X = b"x" * 100_000
BOMBS = {
    "a value": large(b"GET /v1/_echo HTTP/1.1\r\nX: ", X, b"\r\n\r\n"),
    "trailers": large(IN_CHUNKS + b"1\r\nx\r\n0\r\n", b"X: " + X + b"\r\n", b"\r\n"),
    "a chunk's size": large(IN_CHUNKS, b"0" * 100_000, b"1\r\nx\r\n0\r\n\r\n"),
    "a body": large(UPLOAD + b"Content-Length: 50000000\r\n\r\n", X, b""),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_bomb(gateway: Watched, bomb: Callable[[], Iterator[bytes]]) -> None:
    """A head, trailer or body larger than any use is refused, never held in memory, never passed on as whole."""
    before = gateway.rss()
    with gateway.wire() as connection:
        all(connection.send(piece) for piece in bomb())
        # Where we wrote on after it was closed, the refusal may be lost.
        with suppress(ClosedError):
            assert connection.reply().status in (400, 408, 413, 414, 431)
    assert gateway.rss() - before < SLACK_BYTES
    assert len(gateway.reached()) < MAX_BODY_BYTES * 1.2
    assert not gateway.reached().endswith(b"0\r\n\r\n")


def test_sizes_of_bodies(gateway: Watched) -> None:
    """A body of just the limit arrives, in whatever pieces; one byte more is a 413 that names the limit."""
    body = b"x" * MAX_BODY_BYTES
    before = gateway.rss()
    tiny = gateway.ask(IN_CHUNKS + chunk(b"x") * 100_000 + b"0\r\n\r\n")
    assert tiny.json()["body_bytes"] == 100_000
    assert gateway.rss() - before < SLACK_BYTES
    for data in (request("POST", "/v1/_upload", body), IN_CHUNKS + chunk(body) + b"0\r\n\r\n"):
        assert gateway.ask(data).json()["body_bytes"] == MAX_BODY_BYTES
    gateway.mark()
    for data in (
        UPLOAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        UPLOAD + b"Content-Length: %d\r\n\r\n" % 10**18,
        IN_CHUNKS + chunk(body) + chunk(b"y") + b"0\r\n\r\n",
    ):
        with gateway.wire() as connection:
            reply = connection.ask(data)
            assert connection.rest() == b""
        assert (reply.status, reply.json()["error"]["code"]) == (413, 413)
        assert str(MAX_BODY_BYTES) in reply.json()["error"]["message"]
    assert gateway.reached() == b""


def test_stalled_requests(gateway: Watched) -> None:
    """A head or a body that is not finished in time is a 408 or a close, and the engine never hears of it."""
    heads = (b"", b"PO", b"POST /v1/_ec", UPLOAD, b"\r\n")
    bodies = [
        b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n3\r\nabc" % (path, framing)
        for framing in (b"Content-Length: 1000", b"Transfer-Encoding: chunked")
        for path in (b"/v1/_upload", b"/v1/chat/completions")
    ]
    with ExitStack() as stack:
        wires = [stack.enter_context(gateway.wire()) for _ in (*heads, *bodies)]
        for connection, data in zip(wires, (*heads, *bodies), strict=True):
            connection.send(data)
        for connection in wires[: len(heads)]:
            said = connection.rest()
            assert said == b"" or said.startswith(b"HTTP/1.1 408 ")
        for connection in wires[len(heads) :]:
            assert connection.reply().status == 408
            assert connection.rest() == b""
    assert gateway.reached() == b""


@contextmanager
def unfinished(program: Program, count: int) -> Iterator[list[Wire]]:
    """Open so many requests that have sent the first byte of their body and no more."""
    with ExitStack() as stack:
        wires = [stack.enter_context(wire(program.port)) for _ in range(count)]
        for connection in wires:
            connection.send(request("POST", "/v1/chat/completions", None, "Content-Length: 1000") + b"{")
        until(lambda: program.metric("gateway_bodies_incomplete") == count, "the requests' first bytes")
        yield wires


def test_unfinished_bodies_take_no_places(gateway: Watched) -> None:
    """Requests that are not whole lock nobody out."""
    with unfinished(gateway.program, 8):
        assert gateway.program.chat().status_code == 200
        assert gateway.program.metric("gateway_in_flight") == 0
    until(lambda: gateway.program.metric("gateway_bodies_incomplete") == 0, "the end of all")


def open_silent(stack: ExitStack, port: int, count: int) -> None:
    """Open so many connections, and send nothing."""
    for _ in range(count):
        connection = stack.enter_context(socket.socket())
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", port))


def test_flood(gateway: Watched) -> None:
    """Far more silent connections than allowed: what is held stays bounded, and others get in in time."""
    before, most = gateway.fds(), 0

    def served() -> bool:
        nonlocal most
        most = max(most, gateway.fds())
        try:
            with wire(gateway.port, 1.0) as connection:
                return connection.ask(request("GET", "/livez", None, "Connection: close")).status == 200
        except (ClosedError, OSError):
            return False

    with ExitStack() as stack:
        open_silent(stack, gateway.port, 2 * MAX_CONNECTIONS)
        until(served, "an answer in a flood")
        assert most - before <= MAX_CONNECTIONS + 10
    until(lambda: gateway.fds() <= before + 2, "the close of all")


FILES, CONNECTIONS = 1024, 1100


@pytest.fixture
def files_of_our_own() -> Iterator[None]:
    """Let this process have as many files as it opens connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard > 2 * CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * CONNECTIONS, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("files_of_our_own")
def test_more_connections_than_files(start: StartProgram) -> None:
    """A stream and a kept connection are served in a flood, and the engine is not blamed for our want of files."""
    scenario = {"tokens": 100_000, "tokens_per_second": 100}
    program = start(scenario, wrapper=("prlimit", f"--nofile={FILES}:{FILES}", "--"))
    engine = program.engine_pid()
    [warning] = [line for line in program.log().splitlines() if "WARNING gateway" in line and "files" in line]
    assert f"only {FILES} files may be open" in warning
    with wire(program.port) as streaming, wire(program.port) as kept, ExitStack() as flood:
        assert kept.ask(request("GET", "/livez")).status == 200
        streaming.send(post_json("/v1/chat/completions", STREAM | {"max_tokens": 500}))
        open_silent(flood, program.port, CONNECTIONS)
        for _ in range(10):
            assert kept.ask(post_json("/v1/chat/completions", CHAT | {"max_tokens": 4})).status == 200
            assert kept.ask(request("GET", "/readyz")).status == 200
        assert streaming.reply().body.endswith(b"data: [DONE]\n\n")
        flood.close()
        until(lambda: program.health() is not None, "a new connection's answer")
    assert (program.engines_lost(), program.engine_pid()) == (0, engine)
