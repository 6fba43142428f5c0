"""HTTP by hand: sockets for what no client library would send, and a tap on what reaches the engine."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

REPLY_SECONDS = 60.0
"""How long an answer may take; a real engine on a CPU may be given longer."""


class ClosedError(Exception):
    """The other side closed the connection where an answer was due."""


@dataclass(frozen=True)
class Reply:
    """An answer, taken apart but not read."""

    status: int
    headers: list[tuple[str, str]]
    """In their order, names as they were spelt."""
    chunks: list[bytes]
    """The body as it was framed: one piece where it was not chunked."""

    @cached_property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        """Return the first header of this name, if there is one."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Wire:
    """One connection to a server: what is sent is sent as it is, answers are taken one by one."""

    def __init__(self, connection: socket.socket, seconds: float = REPLY_SECONDS) -> None:
        connection.settimeout(seconds)
        self.socket = connection
        self._received = b""

    def send(self, data: bytes) -> bool:
        """Send all of it; False where the other side had closed before it was all taken."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def ask(self, data: bytes) -> Reply:
        """Send a request and return its answer."""
        self.send(data)
        return self.reply(is_head=data.startswith(b"HEAD "))

    def reply(self, *, is_head: bool = False) -> Reply:
        """Return the next answer.

        Raises:
            ClosedError: the connection was closed before the answer was complete.
        """
        status_line, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, code, *_ = status_line.split(" ")
        assert version == "HTTP/1.1", status_line
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        return Reply(int(code), headers, list(self._body(int(code), headers, is_head)))

    def rest(self) -> bytes:
        """Return everything until the other side closes."""
        while self._receive():
            pass
        rest, self._received = self._received, b""
        return rest

    def _body(self, status: int, headers: list[tuple[str, str]], is_head: bool) -> Iterator[bytes]:
        named = {name.lower(): value for name, value in headers}
        if is_head or status < 200 or status in (204, 304):
            return
        if named.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                yield self._exactly(size)
                assert self._exactly(2) == b"\r\n"
            self._until(b"\r\n")
        elif (length := named.get("content-length")) is not None:
            yield self._exactly(int(length))
        else:
            yield self.rest()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            if not self._receive():
                raise ClosedError(f"the connection was closed after {self._received!r:.300}")
        found, _, self._received = self._received.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            if not self._receive():
                raise ClosedError(f"closed {size - len(self._received)} bytes before the end of a body")
        found, self._received = self._received[:size], self._received[size:]
        return found

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._received += data
        return bool(data)


@contextmanager
def wire(address: int | Path, seconds: float = REPLY_SECONDS) -> Iterator[Wire]:
    """Connect to a port of this machine, or to a Unix socket."""
    connection = socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET)
    with connection:
        connection.settimeout(seconds)
        connection.connect(str(address) if isinstance(address, Path) else ("127.0.0.1", address))
        yield Wire(connection, seconds)


def request(method: str, target: str, body: bytes | None = None, *headers: str) -> bytes:
    """Spell a proper request; further headers as whole lines."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def post_json(target: str, value: object, *headers: str) -> bytes:
    """Spell a proper request with a body in JSON."""
    return request("POST", target, json.dumps(value).encode(), "Content-Type: application/json", *headers)


def chunk(data: bytes) -> bytes:
    """Frame one chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Tap:
    """Stands on the engine's socket, passes everything on, and keeps what came from the gateway."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._behind = path.with_suffix(".tapped")
        self._taken: list[tuple[int, bytes]] = []
        self._probes: set[int] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.connections = 0
        """How many the gateway has made."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Tap:
        self._path.rename(self._behind)
        self._thread.start()
        start = asyncio.start_unix_server(self._connected, self._path)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(5)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with suppress(FileNotFoundError):  # the engine may have ended, and its folder with it
            self._behind.replace(self._path)
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mark(self) -> int:
        """Return a point in time to give to `since`."""
        return len(self._taken)

    def since(self, mark: int) -> bytes:
        """Return what has come since then, our own questions left out."""
        return b"".join(data for number, data in self._taken[mark:] if number not in self._probes)

    def hang_up(self) -> None:
        """Close every connection there is; new ones are welcome."""
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(5)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            behind_reader, behind_writer = await asyncio.open_unix_connection(self._behind)
        except (OSError, asyncio.CancelledError):
            writer.close()
            return
        ways = [
            asyncio.ensure_future(self._pass_on(reader, behind_writer, number)),
            asyncio.ensure_future(self._pass_on(behind_reader, writer, None)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # by `_hang_up`
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (behind_writer, writer):
                end.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int | None
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if number is not None:
                    self._keep(number, data)
                writer.write(data)
                await writer.drain()

    def _keep(self, number: int, data: bytes) -> None:
        if b"\r\nUser-Agent: Python/" in data and b" aiohttp/" in data:
            self._probes.add(number)
        self._taken.append((number, data))

    async def _stop(self) -> None:
        self._server.close()
        await self._hang_up()
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=1.0)

    async def _hang_up(self) -> None:
        # Not all tasks: one that the server has for a connection it is just accepting would leave it open.
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


def within(seconds: float, began: float) -> bool:
    """Say whether no more than so many seconds have passed since `began` (of `time.monotonic`)."""
    return time.monotonic() - began <= seconds
