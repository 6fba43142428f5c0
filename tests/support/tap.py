"""A tap on the engine's socket: passes everything on, and keeps what came from the gateway."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path


class Tap:
    """A relay in front of an engine's socket, for as long as it is entered."""

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
