"""Connections to the engine: what state one is in when the next request gets it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from vllm_engine.gateway.proxy.upstream import Upstream, UpstreamConnection, UpstreamError

HEAD = b"GET / HTTP/1.1\r\nhost: engine\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


class SlowSink:
    """Has the connection paused with whatever it gets, as a client does that does not keep up."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        self.data = b""
        self.error: UpstreamError | None = None
        self.ended = asyncio.Event()

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        pass

    def on_data(self, data: bytes, *, is_last: bool) -> None:
        self.data += data
        self.connection.pause()

    def on_end(self) -> None:
        self.ended.set()

    def on_broken(self, error: UpstreamError) -> None:
        self.error = error
        self.ended.set()


@asynccontextmanager
async def engine(path: Path) -> AsyncIterator[tuple[Upstream, list[asyncio.StreamWriter]]]:
    """Answer every request on a Unix socket; yields the pool for it and the engine's ends of connections."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                _, _, length = head.partition(b"content-length: ")
                await reader.readexactly(int(length or b"0"))
                writer.write(ANSWER)
        writer.close()

    upstream = Upstream(path)
    async with await asyncio.start_unix_server(serve, path):
        yield upstream, writers
        upstream.close()
        for writer in writers:
            await writer.wait_closed()


async def ask(upstream: Upstream, body: bytes | bytearray = b"") -> SlowSink:
    """Send one request, and return what became of it."""
    connection = await upstream.connect()
    sink = SlowSink(connection)
    head = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-length: %d\r\n\r\n" % len(body))
    connection.start(head, body, sink)
    async with asyncio.timeout(5):
        await sink.ended.wait()
    return sink


async def test_an_idle_connection_does_not_hold_the_last_body(tmp_path: Path) -> None:
    """What has been sent is nobody's any more: 256 idle connections must not hold 32 MB each."""
    async with engine(tmp_path / "socket") as (upstream, connections):
        body = bytearray(5_000_000)
        sink = await ask(upstream, body)
        assert (sink.data, sink.error, len(connections)) == (b"hello", None, 1)
        body.clear()  # raises BufferError while anybody has a view of it


async def test_a_connection_that_was_paused_reads_the_next_answer(tmp_path: Path) -> None:
    """The last piece of an answer may pause its connection: the next request must not wait for ever."""
    async with engine(tmp_path / "socket") as (upstream, connections):
        for _ in range(3):
            sink = await ask(upstream)
            assert (sink.data, sink.error) == (b"hello", None)
        assert len(connections) == 1


async def test_a_connection_that_was_paused_sees_the_engines_close(tmp_path: Path) -> None:
    """An idle connection that the engine has closed is not used again, paused or not."""
    async with engine(tmp_path / "socket") as (upstream, connections):
        sink = await ask(upstream)
        connections[0].close()
        async with asyncio.timeout(5):
            while not sink.connection.closed:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.01)
        assert (await ask(upstream)).error is None
        assert len(connections) == 2


@pytest.mark.parametrize("left_over", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", b""])
async def test_what_came_unasked_is_found_before_reuse(tmp_path: Path, left_over: bytes) -> None:
    """An unasked answer, or an end, that the event loop has not heard of yet spoils a connection already."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        upstream = Upstream(path)
        connection = await upstream.connect()
        engine_side = listener.accept()[0]
        upstream.give_back(connection)
        assert await upstream.connect() is connection
        upstream.give_back(connection)
        engine_side.sendall(left_over)
        if not left_over:
            engine_side.close()
        other = await upstream.connect()
        assert other is not connection
        assert connection.closed
        other.close()
        engine_side.close()
