"""Stands on the engine's socket: what asks for an input of the campaign is answered so, all else by the engine."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from perf.campaign.engine_inputs import EngineInput, Then

PATH = "/v1/_echo?engine="
_START = b"POST /v1/_echo?engine="
_TARGET = re.compile(rb"POST /v1/_echo\?engine=(\d+) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class StandIn:
    """An engine that answers as told, in front of one that answers well.

    Args:
        behind: the other one's socket.
        find: returns the input of an index.
    """

    def __init__(self, behind: Path, find: Callable[[int], EngineInput]) -> None:
        self._behind = behind
        self._find = find
        self._serving: set[asyncio.Task[None]] = set()

    def take(self, connection: socket.socket) -> None:
        """Serve a connection."""
        task = asyncio.ensure_future(self._serve(connection))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def close(self) -> None:
        """Drop every connection."""
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, suppress(OSError):
            while data := await loop.sock_recv(connection, 1 << 16):
                if not data.startswith(_START):
                    # Until the gateway uses this connection for an input of the campaign.
                    data = await self._splice(connection, data)
                if not data or not await self._answer(connection, data):
                    return

    async def _answer(self, connection: socket.socket, data: bytes) -> bool:
        loop = asyncio.get_running_loop()
        while b"\r\n\r\n" not in data:
            if not (more := await loop.sock_recv(connection, 1 << 16)):
                return False
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        target, length = _TARGET.match(head), _LENGTH.search(head + b"\r\n")
        assert target is not None, head
        one = self._find(int(target[1]))
        missing = (int(length[1]) if length is not None else 0) - len(rest)
        while missing > 0 and not one.early:
            if not (more := await loop.sock_recv(connection, 1 << 16)):
                return False
            missing -= len(more)
        for piece in one.pieces:
            await loop.sock_sendall(connection, piece)
            await asyncio.sleep(0)
        return one.then is Then.KEEP

    async def _splice(self, connection: socket.socket, data: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as behind:
            behind.setblocking(False)
            await loop.sock_connect(behind, str(self._behind))
            await loop.sock_sendall(behind, data)
            forth = asyncio.ensure_future(_copy(connection, behind))
            back = asyncio.ensure_future(_copy(behind, connection))
            try:
                await asyncio.wait((forth, back), return_when=asyncio.FIRST_COMPLETED)
                return forth.result() if forth.done() else b""
            finally:
                for way in (forth, back):
                    way.cancel()
                await asyncio.gather(forth, back, return_exceptions=True)


async def _copy(source: socket.socket, sink: socket.socket) -> bytes:
    """Copy until the end, or until the head of an input's request, which is returned."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, 1 << 16):
        if data.startswith(_START):
            return data
        await loop.sock_sendall(sink, data)
    return b""


@asynccontextmanager
async def standing_in(path: Path, find: Callable[[int], EngineInput]) -> AsyncIterator[None]:
    """Take the engine's place at its socket."""
    behind, listener = _take_place(path)
    one = StandIn(behind, find)

    async def accept() -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            connection.setblocking(False)
            one.take(connection)

    accepting = asyncio.ensure_future(accept())
    try:
        yield
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        listener.close()
        await one.close()
        behind.replace(path)


def _take_place(path: Path) -> tuple[Path, socket.socket]:
    behind = path.with_suffix(".behind")
    path.rename(behind)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1024)
    listener.setblocking(False)
    return behind, listener
