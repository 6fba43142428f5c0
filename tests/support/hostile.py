"""Our program under a watch: what reaches its engine, what it logs, what it holds on to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import Program, engine_metric, running, until
from tests.support.raw_http import Reply, Tap, Wire, wire

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 1_000_000,
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "hidden_size": 64,
}
MAX_BODY_BYTES = 1_000_000
TIMEOUT_SECONDS = 1.0
MAX_CONNECTIONS = 200
SETTINGS = {
    "EXTRA_ROUTES": "/v1/_echo /v1/_upload",
    "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    "HEADER_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "BODY_IDLE_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
    "MAX_CONNECTIONS": str(MAX_CONNECTIONS),
}
CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


class Watched:
    """A ready program, a tap on its engine's socket, and what both said when a test began."""

    def __init__(self, program: Program, engine: Path, tap: Tap, python: Path) -> None:
        self.program = program
        self.engine = engine
        self.python = python
        self.port = program.port
        self._tap = tap
        self._gateway = psutil.Process(program.pid)
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
        return engine_metric(self.engine.with_suffix(".tapped"), name)

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

    def assert_calm(self) -> None:
        """It lives and serves, its engine is idle, and it logged no defect of its own."""
        assert self.ask(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
        until(lambda: self.metric("vllm:num_requests_running") == 0, "an idle engine")
        ours = "\n".join(line for line in self.logged().splitlines() if " engine: " not in line)
        for word in ("Traceback", "never retrieved", "was destroyed", "ERROR", "Exception"):
            assert word not in ours, ours[-3000:]


@contextmanager
def watched_program(
    folder: Path, scenario: Mapping[str, Any] | None = None, **variables: str
) -> Iterator[Watched]:
    """Run our program with a fake engine and small limits; its pool of connections starts at the tap."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    python = make_fake_engine_python(folder / "engine", scenario or {})
    environ = {"ENGINE_PYTHON": str(python), "MODEL_ID": str(model), "SERVED_MODEL_NAME": "fake"}
    with running(environ | SETTINGS | variables, folder=folder) as program:
        program.until_ready()
        engine = engine_socket(program)
        with Tap(engine) as tap:
            yield Watched(program, engine, tap, python)


def engine_socket(program: Program) -> Path:
    """Return the path of the engine's socket."""
    command = psutil.Process(program.engine_pid()).cmdline()
    return Path(command[command.index("--uds") + 1])
