"""Our program under a watch: what reaches its engine, what it logs, what it holds on to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from tests.support.fake.fake_engine import make_fake_engine_python, write_scenario
from tests.support.model import LONG_CONFIG, make_model
from tests.support.program import Program, engine_metric, running, until
from tests.support.raw_http import Reply, Wire, request, wire

FAULTS = ("Traceback", "never retrieved", "was destroyed", "ERROR", "Exception")


class Watched:
    """A ready program, a tap on its engine's socket, and what both said when a test began."""

    def __init__(self, program: Program, tap: Tap, scenario: Mapping[str, Any]) -> None:
        self.program = program
        self.engine = program.engine_socket()
        self.behind = self.engine.with_suffix(".tapped")
        """Where the engine itself listens."""
        self.port = program.port
        self.change = program.change
        self._tap = tap
        self._scenario = scenario
        self._gateway = psutil.Process(program.pid)
        self._numbers = count()
        self.mark()

    def mark(self) -> None:
        """Look from here on."""
        self._tapped = self._tap.mark()
        self._logged = len(self.program.log())

    def reached(self) -> bytes:
        """Return what has reached the engine since the mark."""
        return self._tap.since(self._tapped)

    def logged(self) -> str:
        """Return what was logged since the mark."""
        return self.program.log()[self._logged :]

    def connections(self) -> int:
        """Count the connections to the engine that the gateway has ever made."""
        return self._tap.connections

    def hang_up(self) -> None:
        """Close the gateway's connections to the engine, idle ones too."""
        self._tap.hang_up()

    def metric(self, name: str) -> float:
        """Ask the engine itself for one of its metrics."""
        return engine_metric(self.behind, name)

    def until_running(self, requests: int) -> None:
        """Wait until so many requests run at the engine."""
        until(
            lambda: self.metric("vllm:num_requests_running") == requests, f"{requests} requests at the engine"
        )

    def fds(self) -> int:
        """Count the gateway's open files."""
        return self._gateway.num_fds()

    def rss(self) -> int:
        """Return the gateway's resident memory in bytes."""
        return int(self._gateway.memory_info().rss)

    @contextmanager
    def wire(self) -> Iterator[Wire]:
        """Connect to the gateway."""
        with wire(self.port) as connection:
            yield connection

    def ask(self, data: bytes) -> Reply:
        """Send a request on a connection of its own and return the answer."""
        with self.wire() as connection:
            return connection.ask(data)

    def straight(self, data: bytes) -> Reply:
        """Ask the engine itself."""
        with wire(self.behind) as connection:
            return connection.ask(data)

    def reset(self) -> None:
        """Give the engine its first scenario again."""
        write_scenario(self.program.scenario, self._scenario)

    def assert_calm(self) -> None:
        """It lives and serves, its engine is idle, and it logged no defect of its own."""
        self.until_running(0)
        # The log is written in order: once this line is there, so is all that came before it.
        last = f"/calm-{next(self._numbers)}"
        assert self.ask(request("GET", last)).status in (401, 404)
        until(lambda: last in self.logged(), "the last request's line in the log")
        engines = (" engine: ", '"source": "engine"')
        ours = "\n".join(
            line for line in self.logged().splitlines() if not any(mark in line for mark in engines)
        )
        for word in FAULTS:
            assert word not in ours, ours[-3000:]


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


@contextmanager
def watched_program(folder: Path, scenario: Mapping[str, Any] = {}, **variables: str) -> Iterator[Watched]:
    """Run our program with a fake engine; its pool of connections starts at the tap."""
    environ = {
        "ENGINE_PYTHON": str(make_fake_engine_python(folder / "engine", scenario)),
        "MODEL_ID": str(make_model(folder / "model", LONG_CONFIG)),
        "SERVED_MODEL_NAME": "fake",
        "EXTRA_ROUTES": "/v1/_echo, PUT /v1/_echo, /v1/_upload",
    }
    with running(environ | variables, folder=folder) as program:
        program.until_ready()
        with Tap(program.engine_socket()) as tap:
            yield Watched(program, tap, scenario)
