"""Our program under a watch: what reaches its engine, what it logs, what it holds on to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from tests.support.fake.fake_engine import make_fake_engine_python, write_scenario
from tests.support.model import LONG_CONFIG, make_model
from tests.support.program import Program, engine_metric, running, until
from tests.support.raw_http import Reply, Wire, request, wire
from tests.support.tap import Tap

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
