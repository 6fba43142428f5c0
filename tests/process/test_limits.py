"""More, longer or slower than any client needs: refused early, at no cost to the engine or to others."""

from __future__ import annotations

import resource
import signal
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
    "many headers": large(b"GET /v1/_echo HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n" * 10_000, b"\r\n"),
    "a value": large(b"GET /v1/_echo HTTP/1.1\r\nX: ", X, b"\r\n\r\n"),
    "a name": large(b"GET /v1/_echo HTTP/1.1\r\n", X, b": 1\r\n\r\n"),
    "a path": large(b"GET /v1/_echo?", X, b" HTTP/1.1\r\n\r\n"),
    "trailers": large(IN_CHUNKS + b"1\r\nx\r\n0\r\n", b"X: " + X + b"\r\n", b"\r\n"),
    "an extension": large(IN_CHUNKS + b"1;", X, b"\r\nx\r\n0\r\n\r\n"),
    "a chunk's size": large(IN_CHUNKS, b"0" * 100_000, b"1\r\nx\r\n0\r\n\r\n"),
    "empty lines": large(b"", b"\r\n" * 50_000, b""),
    "a body": large(UPLOAD + b"Content-Length: 50000000\r\n\r\n", X, b""),
    "a body in chunks": large(IN_CHUNKS, chunk(X), b"0\r\n\r\n"),
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


def test_sizes_of_heads(gateway: Watched) -> None:
    """A token or a cookie of 4 KB is served; a refusal of a larger head arrives whole."""
    for size, path, header in (
        (4_000, 200, 200),
        (30_000, 200, 200),
        (64_000, 200, 200),
        (200_000, 431, 431),
    ):
        filler = "x" * size
        assert gateway.ask(request("GET", f"/v1/_echo?{filler}")).status == path, size
        assert gateway.ask(request("GET", "/v1/_echo", None, f"X-A: {filler}")).status == header, size


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


def test_trickled_requests(gateway: Watched) -> None:
    """A byte now and then does not buy time: the limit is for the whole head, and for little of a body."""
    trickles = [
        (b"", b"GET /v1/_echo HTTP/1.1\r\n" + b"X: y\r\n" * 100_000),
        (request("GET", "/livez"), b"GET /v1/_echo HTTP/1.1\r\n" + b"X: y\r\n" * 100_000),
        (UPLOAD + b"Content-Length: 100000\r\n\r\n", b"x" * 100_000),
        (IN_CHUNKS, chunk(b"x") * 10_000),
    ]
    with ExitStack() as stack:
        open_ones = []
        for first, data in trickles:
            connection = stack.enter_context(gateway.wire())
            connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.send(first)
            connection.socket.settimeout(0.01)
            open_ones.append((connection, iter(data)))

        def all_closed() -> bool:
            open_ones[:] = [one for one in open_ones if not closed_after(one[0], next(one[1]))]
            return not open_ones

        until(all_closed, "the close of all")
    assert gateway.reached() == b""


def closed_after(connection: Wire, byte: int) -> bool:
    """Send one byte; say whether the connection has been closed. An answer that comes before that is read."""
    if not connection.send(bytes([byte])):
        return True
    with suppress(TimeoutError):
        connection.rest()
        return True
    return False


def test_slow_is_not_stalled(gateway: Watched) -> None:
    """A slow but steady body arrives, and an answer may take longer than any limit on requests."""
    gateway.change(first_token_seconds=TIMEOUT_SECONDS * 2)
    with gateway.wire() as connection, gateway.wire() as waiting:
        waiting.send(post_json("/v1/chat/completions", CHAT))
        connection.send(IN_CHUNKS)
        gateway.until_running(1)
        sent = 0

        def other_is_answered() -> bool:
            nonlocal sent
            connection.send(chunk(b"x" * 4_096))
            sent += 4_096
            return gateway.metric("vllm:num_requests_running") == 0

        until(other_is_answered, "the slow answer")
        assert connection.ask(b"0\r\n\r\n").json()["body_bytes"] == sent
        assert waiting.reply().status == 200


RESTS = {
    "trailers": (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: " + X + b"\r\n"),
    "one trailer": (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ", X),
    "a body": (b"Content-Length: 100000000\r\n\r\n", X),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", chunk(b"x") * 10_000),
}


@pytest.mark.parametrize(("head", "piece"), RESTS.values(), ids=RESTS.keys())
def test_what_follows_an_early_answer(gateway: Watched, head: bytes, piece: bytes) -> None:
    """After a refusal nothing more is looked at or kept, and the connection is not there for ever."""
    before = gateway.rss()
    with gateway.wire() as connection:
        assert connection.ask(b"POST /v1/nothing HTTP/1.1\r\nHost: x\r\n" + head).status == 404
        assert not all(connection.send(piece) for _ in range(100_000_000 // len(piece)))
    assert gateway.rss() - before < SLACK_BYTES
    assert gateway.reached() == b""


def test_end_of_a_body_after_an_early_answer(gateway: Watched) -> None:
    """Where little is left it is read, and the connection serves on; else it is closed, as the answer says."""
    with gateway.wire() as connection:
        assert connection.ask(request("POST", "/v1/nothing", None, "Content-Length: 5")).status == 404
        assert connection.ask(b"12345" + request("GET", "/livez")).status == 200
    for length, says in ((1000, None), (1_000_000, "close")):
        with gateway.wire() as connection:
            reply = connection.ask(request("POST", "/v1/nothing", None, f"Content-Length: {length}") + b"x")
            assert (reply.status, reply.header("connection")) == (404, says)
            assert connection.rest() == b""


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


def test_unfinished_bodies_hold_up_no_end(start: StartProgram) -> None:
    """In a drain a client that is still sending is told so at once, and is not waited for."""
    program = start(DRAIN_TIMEOUT_SECONDS="600")
    with unfinished(program, 3) as wires:
        program.send(signal.SIGTERM)
        for connection in wires:
            reply = connection.reply()
            assert (reply.status, reply.header("connection")) == (503, "close")
            assert reply.header("retry-after")
            assert "shutting down" in reply.json()["error"]["message"]
    assert program.wait() == 0


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
