"""Both frontends on one engine: READY needs both, the loss of either ends the engine, and a fallback is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.fake.fake_engine import make_fake_engine_python, write_scenario
from tests.support.model import make_model
from tests.support.program import Program, running, until, until_gone
from tests.support.raw_http import request, wire

MARK = "x-fake-frontend"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A program whose engine can serve with both; it may lose any number of engines."""
    folder = tmp_path_factory.mktemp("both")
    environ = {
        "ENGINE_PYTHON": str(make_fake_engine_python(folder / "engine", rust_version="0.32.0")),
        "MODEL_ID": str(make_model(folder / "model")),
        "SERVED_MODEL_NAME": "fake",
        "MAX_RESTARTS": "1000",
        "RESTART_WINDOW_SECONDS": "1",
    }
    with running(environ, folder=folder) as started:
        yield started


def rust_of(program: Program) -> psutil.Process:
    """Return the Rust frontend's process."""
    (rust,) = [child for child in program.processes() if child.name() == "vllm-rs"]
    return rust


def frontend_of(socket: Path) -> str | None:
    """Ask who answers on an engine's socket."""
    with wire(socket) as connection:
        return connection.ask(request("GET", "/health", None, "Connection: close")).header(MARK)


def test_both_run(program: Program) -> None:
    """Each on its own socket, and the plan and /version say so."""
    program.until_ready()
    python = program.engine_socket()
    assert [frontend_of(socket) for socket in (python, python.with_name("rust.sock"))] == [None, "rust"]
    assert program.client.get("/version").json()["frontend"] == "both"
    program.until_logged("ENGINE_FRONTEND=both: auto: on CPU")


def test_a_lost_frontend_ends_the_engine(program: Program) -> None:
    """vLLM can start neither again alone. Who it was is told, nothing of the old engine stays, and both come again."""
    program.until_ready()
    old, rust = program.processes()[1:], rust_of(program)
    with program.loses_engine():
        rust.kill()
    program.until_logged(f"RuntimeError: Process RustFrontend (PID: {rust.pid}) died with exit code -9")
    program.until_ready()
    until_gone(old)
    assert rust_of(program).pid != rust.pid


def test_without_the_rust_frontend(program: Program) -> None:
    """The launcher falls back: the Python frontend alone serves, and why is in the log."""
    program.until_ready()
    write_scenario(program.scenario, {"not_both": "vllm-rs has a fault"})
    with program.loses_engine():
        psutil.Process(program.engine_pid()).kill()
    program.until_ready()
    write_scenario(program.scenario, {})
    program.until_logged("the Python frontend serves alone: vllm-rs has a fault")
    until(lambda: program.client.get("/version").json()["frontend"] == "python", "python in /version")
    assert "vllm-rs" not in [process.name() for process in program.processes()]
