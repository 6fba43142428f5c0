"""One Chromium for all; our program with a fake engine, one for each file of tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.browser.chromium import Visit, chromium
from tests.support.fake import fake_engine as fake
from tests.support.model import CONFIG
from tests.support.program import Program, running

MODEL = "org/model"


class Server:
    """Our program, and its fake engine's scenario."""

    def __init__(self, program: Program, scenario: Path) -> None:
        self.program = program
        self.url = program.url
        self._scenario = scenario

    def engine(self, **changes: Any) -> None:
        """Have the engine behave so from its next request on, and otherwise well."""
        fake.write_scenario(self._scenario, fake.Scenario())
        fake.change_scenario(self._scenario, **changes)


@contextmanager
def serving(folder: Path, scenario: dict[str, Any], **variables: str) -> Iterator[Server]:
    """Run our program with a fake engine."""
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "generation_config.json").write_text('{"temperature": 0.3}')
    python = fake.make_fake_engine_python(folder / "engine", scenario)
    environ = {"ENGINE_PYTHON": str(python), "MODEL_ID": str(model), "SERVED_MODEL_NAME": MODEL} | variables
    with running(environ, folder=folder) as program:
        yield Server(program, fake.scenario_of(python))


StartServer = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    """Start our program for one test."""
    with ExitStack() as stack:
        yield lambda scenario=None, **variables: stack.enter_context(
            serving(tmp_path / "server", scenario or {}, **variables)
        )


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Run Chromium."""
    with chromium() as running_browser:
        yield running_browser


@contextmanager
def visiting(browser: Browser, **options: Any) -> Iterator[Visit]:
    """Open a page whose errors fail the test."""
    one = Visit(browser, viewport={"width": 1280, "height": 800}, **options)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Give a fresh page whose errors fail the test."""
    with visiting(browser) as one:
        yield one


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Our program, ready; without a key."""
    with serving(tmp_path_factory.mktemp("server") / "server", {}, KEEP_ALIVE_SECONDS="0.2") as one:
        one.program.until_ready()
        yield one
