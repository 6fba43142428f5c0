"""Connections to the engine: what state one is in when the next request gets it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.support.virtual.played_engine import OK, engine_that_says
from tests.support.virtual.virtual_time import in_virtual_time, settle
from vllm_engine.gateway.http.chunk_framing import content_of
from vllm_engine.gateway.proxy.upstream import POOL_KEEP_ALIVE_SECONDS, Upstream
from vllm_engine.gateway.proxy.upstream_connection import UpstreamConnection, UpstreamError


class SlowSink:
    """Pauses the connection with whatever it gets, for a client that does not keep up."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        self.data = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        pass

    def on_data(self, data: bytes, *, is_last: bool) -> None:
        self.data += data
        self.connection.pause()

    def on_event(self, chunk: bytes) -> None:
        self.on_data(content_of(chunk), is_last=False)

    def on_end(self) -> None:
        self.ended.set_result(None)

    def on_broken(self, error: UpstreamError) -> None:
        self.ended.set_exception(error)


async def ask(upstream: Upstream, body: bytes | bytearray = b"") -> UpstreamConnection:
    connection = await upstream.connect()
    sink = SlowSink(connection)
    connection.start(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body), body, sink)
    await sink.ended
    assert sink.data == b"ok"
    return connection


@in_virtual_time
async def test_an_idle_connection_serves_the_next_request_and_holds_nothing_of_the_last(
    tmp_path: Path,
) -> None:
    """It reads that response, and the engine's close, although it was paused; it is closed after a while."""
    async with engine_that_says(tmp_path, OK) as case:
        body = bytearray(5_000_000)  # hundreds of idle connections must not hold 32 MB each
        await ask(case.upstream, body)
        body.clear()  # raises BufferError while anybody has a view of it
        for _ in range(3):
            connection = await ask(case.upstream)
        assert len(case.played.connections) == 1
        case.played.connections[0].close()
        await asyncio.sleep(1)
        assert connection.closed
        await ask(case.upstream)
        assert len(case.played.connections) == 2
        await asyncio.sleep(POOL_KEEP_ALIVE_SECONDS + 1)
        await ask(case.upstream)
        assert len(case.played.connections) == 3


@in_virtual_time
async def test_connections_that_ended_together_are_not_taken_together(tmp_path: Path) -> None:
    """With several API servers those of one end together: taken in that order, one would have all the work."""
    async with engine_that_says(tmp_path, OK) as case:
        connections = [await case.upstream.connect(fresh=True) for _ in range(32)]
        await settle()  # the engine has accepted all of them
        for connection in connections:  # the first 16 are of one server, the others of another
            case.upstream.keep(connection)
        taken = {await case.upstream.connect() for _ in range(16)}
        assert taken - set(connections[:16])
        assert taken - set(connections[16:])


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", b""])
async def test_what_came_unasked_is_found_before_reuse(tmp_path: Path, unasked: bytes) -> None:
    """An unasked response, or an end, that the event loop has not read yet taints a connection already."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        upstream = Upstream(path)
        connection = await upstream.connect()
        engine_side = listener.accept()[0]
        upstream.keep(connection)
        assert await upstream.connect() is connection
        upstream.keep(connection)
        engine_side.sendall(unasked)
        if not unasked:
            engine_side.close()
        other = await upstream.connect()
        assert other is not connection
        assert connection.closed
        other.abort()
        engine_side.close()
