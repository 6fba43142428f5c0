"""A client that does not read its answer holds nothing for ever: not its place, not its connection."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.support.hostile import CHAT, Watched, watched_program
from tests.support.program import until
from tests.support.raw_http import ClosedError, Wire, post_json, request

PLACES = 2
UNENDING, LONG = 900_000, 3_000
"""Tokens."""


def stream_of(tokens: int) -> bytes:
    """Return a request for a stream of so many tokens."""
    return post_json("/v1/chat/completions", CHAT | {"stream": True, "max_tokens": tokens})


LIMITS = {
    "SEND_TIMEOUT_SECONDS": "2",
    "CLIENT_KEEP_ALIVE_SECONDS": "1.5",
    "MAX_IN_FLIGHT": str(PLACES),
    "MAX_QUEUE": "64",
    "MAX_MODEL_LEN": "1000000",
    # Answers of our own that cost little, so that only their clients are slow.
    "METRICS_CACHE_SECONDS": "1",
    # Answers carry the first name: events of 2 kB fill a client's buffers in less time.
    "SERVED_MODEL_NAME": "m" * 2000 + " fake",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One program for all of these tests."""
    with watched_program(tmp_path_factory.mktemp("unread"), {"tokens": UNENDING}, **LIMITS) as watched:
        yield watched


def stalled(stack: ExitStack, gateway: Watched, data: bytes) -> Wire:
    """Ask from a client whose own buffer is small and that reads nothing."""
    connection = stack.enter_context(socket.socket())
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", gateway.port))
    wire = Wire(connection)
    wire.send(data)
    return wire


def test_places_come_free(gateway: Watched) -> None:
    """As many stalled clients as there are places lock nobody out; they are on record as gone."""
    gateway.mark()
    with ExitStack() as stack:
        for _ in range(PLACES):
            stalled(stack, gateway, stream_of(UNENDING))
        until(lambda: gateway.program.metric("gateway_in_flight") == PLACES, "all places taken")
        assert gateway.ask(post_json("/v1/chat/completions", CHAT | {"max_tokens": 8})).status == 200
        until(lambda: gateway.logged().count("client_gone") == PLACES, "both on record")
    gateway.assert_calm()


def test_slow_reader_lives(gateway: Watched) -> None:
    """One that takes far longer than the limit, but keeps reading, gets everything."""
    with ExitStack() as stack:
        slow = stalled(stack, gateway, stream_of(LONG))
        gateway.mark()
        said, rounds = b"", 0
        while not said.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
            said += slow.socket.recv(1 << 16)
            rounds += 1
            if rounds % 300 == 0 and rounds < 3000:
                # A pause well below the limit, several of them well above it.
                with pytest.raises(TimeoutError):
                    gateway_is_silent(gateway, 0.5)
    gateway.assert_calm()


def gateway_is_silent(gateway: Watched, seconds: float) -> None:
    """Wait on a connection on which nothing comes.

    Raises:
        TimeoutError: nothing came.
    """
    with gateway.wire() as idle:
        idle.socket.settimeout(seconds)
        idle.socket.recv(1)


def connected(gateway: Watched, ports: set[int]) -> int:
    """Count the gateway's connections to these ports of clients."""
    found = psutil.Process(gateway.program.pid).net_connections("tcp")
    return sum(bool(one.raddr) and one.raddr.port in ports for one in found)


def test_own_answers(gateway: Watched) -> None:
    """Answers of our own that are not read do not keep a connection either."""
    with ExitStack() as stack:
        reading_nothing = [stalled(stack, gateway, request("GET", "/metrics") * 200) for _ in range(5)]
        ports = {one.socket.getsockname()[1] for one in reading_nothing}
        until(lambda: connected(gateway, ports) == 5, "the connections")
        until(lambda: connected(gateway, ports) == 0, "the close of all")
    gateway.assert_calm()


def test_idle_connection(gateway: Watched) -> None:
    """A connection that waits for a request is kept for CLIENT_KEEP_ALIVE_SECONDS."""
    with gateway.wire() as connection:
        assert connection.ask(request("GET", "/livez")).status == 200
        assert connection.rest() == b""


def test_empty_lines_are_no_request(gateway: Watched) -> None:
    """Nor do empty lines keep it."""
    with gateway.wire() as connection:
        assert connection.ask(request("GET", "/livez") + b"\r\n").status == 200
        connection.send(b"\r\n")
        assert connection.rest() == b""


def test_connections_end_with_the_service(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the lame-duck time each answer is its connection's last; idle ones are closed when the drain begins."""
    variables = {"LAME_DUCK_SECONDS": "4", "DRAIN_TIMEOUT_SECONDS": "20"}
    slow = {"tokens": 100, "tokens_per_second": 10}
    with (
        watched_program(tmp_path_factory.mktemp("leaving"), slow, **variables) as gateway,
        gateway.wire() as busy,
        gateway.wire() as pooled,
        gateway.wire() as idle,
    ):
        assert pooled.ask(request("GET", "/v1/models")).header("connection") is None
        assert idle.ask(request("GET", "/v1/models")).header("connection") is None
        busy.send(post_json("/v1/chat/completions", CHAT | {"stream": True, "max_tokens": 100}))
        until(lambda: gateway.program.metric("gateway_in_flight") == 1, "the stream")
        gateway.program.send(signal.SIGTERM)
        until(lambda: gateway.program.client.get("/healthz").status_code == 503, "the lame duck")
        reply = pooled.ask(request("GET", "/v1/models"))
        assert (reply.status, reply.header("connection")) == (200, "close")
        assert pooled.rest() == b""
        assert idle.rest() == b""
        late = gateway.ask(request("GET", "/v1/models"))
        assert (late.status, late.header("connection")) == (503, "close")
        with pytest.raises(ClosedError):
            idle.reply()
        assert busy.reply().body.endswith(b"data: [DONE]\n\n")
        assert busy.rest() == b""
        assert gateway.program.wait() == 0
