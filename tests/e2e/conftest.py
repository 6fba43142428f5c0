"""One real engine, started once by our own program, serves every end-to-end test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from openai import OpenAI

from tests.support.program import Elsewhere, Program, running, until

ROOT = Path(__file__).parents[2]
ENGINE_PYTHON = Path(os.environ.get("ENGINE_PYTHON") or ROOT / ".venv-engine/bin/python")
CACHE_DIR = Path(os.environ.get("CACHE_DIR") or ROOT / ".cache")
MODEL = "bundled:smollm2-135m-instruct"
START_SECONDS = 400.0
BASE_URL = os.environ.get("E2E_BASE_URL")
"""A server that runs already with the bundled model, such as a container; tests that look into it are skipped."""


@dataclass(frozen=True)
class Served:
    """The running program."""

    program: Program
    was_alive_while_starting: bool = False
    """Whether /livez answered before the engine was ready."""

    @property
    def is_elsewhere(self) -> bool:
        """Whether nobody here has started it."""
        return isinstance(self.program, Elsewhere)

    @property
    def socket(self) -> Path:
        """The engine's own socket, behind the gateway: the Python frontend's where both run."""
        command = psutil.Process(self.program.engine_pid()).cmdline()
        return Path(command[command.index("--uds") + 1])

    @property
    def rust_socket(self) -> Path | None:
        """The Rust frontend's socket, where both run."""
        command = psutil.Process(self.program.engine_pid()).cmdline()
        return Path(command[command.index("both") + 1]) if "both" in command else None


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The Python that has the real vLLM; its absence is a failure, not a skip."""
    assert ENGINE_PYTHON.exists(), f"no engine environment at {ENGINE_PYTHON}: run `make setup`"
    return ENGINE_PYTHON


@contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Program]:
    """Our program with the real vLLM and the bundled model, as it starts.

    On a busy CPU a step may take minutes, such as the first with logprobs. Many tests ask the engine itself, so that the
    gateway takes it for idle: an engine that is slow then is not to be restarted under them.
    """
    environ = {
        "ENGINE_PYTHON": str(ENGINE_PYTHON),
        "MODEL_ID": MODEL,
        "CACHE_DIR": str(CACHE_DIR),
        "HANG_TIMEOUT_SECONDS": "0",
    }
    with running(environ | variables, folder=folder) as program:
        yield program


@contextmanager
def ready(folder: Path, **variables: str) -> Iterator[Program]:
    with serving(folder, **variables) as program:
        program.until_ready(START_SECONDS)
        yield program


@pytest.fixture(scope="session")
def served(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Our program with the real vLLM and the bundled model, ready."""
    if BASE_URL:
        elsewhere = Elsewhere(BASE_URL)
        elsewhere.until_ready(START_SECONDS)
        yield Served(elsewhere)
        elsewhere.close()
        return
    with serving(tmp_path_factory.mktemp("served")) as program:
        until(lambda: _alive(program), "an answer from /livez")
        was_starting = (program.health() or {}).get("status") != "ready"
        program.until_ready(START_SECONDS)
        yield Served(program, was_starting)


@pytest.fixture
def client(served: Served) -> Iterator[OpenAI]:
    """The OpenAI SDK, as a user points it at us."""
    with OpenAI(base_url=f"{served.program.url}/v1", api_key="none", max_retries=0) as openai:
        yield openai


def _alive(program: Program) -> bool:
    return program.health() is not None and program.client.get("/livez").status_code == 200
