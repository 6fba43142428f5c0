"""Our program with a fake engine: a real child process on a real socket.

A module has one program, with the module's SETTINGS and SCENARIO. Only where the start, a signal or a death is the
subject does a test start one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.model import make_model
from tests.support.program import Program, running
from tests.support.watched import Watched, watched_program

StartProgram = Callable[..., Program]


@pytest.fixture(scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The module's program: what a test leaves behind, the next one would meet."""
    scenario = getattr(request.module, "SCENARIO", {"tokens": 8})
    settings = getattr(request.module, "SETTINGS", {})
    with watched_program(tmp_path_factory.mktemp("shared"), scenario, **settings) as watched:
        yield watched


@pytest.fixture
def gateway(shared: Watched) -> Iterator[Watched]:
    """The module's program, and what holds after every test."""
    shared.mark()
    yield shared
    shared.reset()
    shared.assert_calm()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A local model."""
    return make_model(tmp_path / "model")


@pytest.fixture
def environ(tmp_path: Path, model_folder: Path) -> dict[str, str]:
    """The variables of a program with a fake engine."""
    return {
        "ENGINE_PYTHON": str(make_fake_engine_python(tmp_path / "engine")),
        "MODEL_ID": str(model_folder),
        "SERVED_MODEL_NAME": "fake",
    }


@pytest.fixture
def launch(tmp_path: Path, model_folder: Path) -> Iterator[StartProgram]:
    """Start the program, whose engine has this scenario, with further variables; it is not waited for."""
    with ExitStack() as stack:

        def launch_program(
            scenario: dict[str, Any] | None = None,
            *arguments: str,
            wrapper: tuple[str, ...] = (),
            **variables: str,
        ) -> Program:
            environ = {
                "ENGINE_PYTHON": str(make_fake_engine_python(tmp_path / "engine", scenario or {})),
                "MODEL_ID": str(model_folder),
                "SERVED_MODEL_NAME": "fake",
            }
            started = running(environ | variables, folder=tmp_path, arguments=arguments, wrapper=wrapper)
            return stack.enter_context(started)

        yield launch_program


@pytest.fixture
def start(launch: StartProgram) -> StartProgram:
    """Start the program in the same way and wait until it is ready."""

    def start_program(*arguments: Any, **variables: Any) -> Program:
        program = launch(*arguments, **variables)
        program.until_ready()
        return program

    return start_program
