"""Fixtures for every level: each test starts from an environment without settings of ours."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from vllm_engine.config.settings import Settings

# A busy machine is no fault: nothing has a deadline, and every run tries the same examples.
hypothesis_settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis_settings.load_profile("tests")


class _SharedPrograms(LoadScopeScheduling):  # type: ignore[misc]
    """With `-n 2 --dist loadgroup` one worker has all tests of a real engine, of Docker, of a file that shares a program.

    Not by xdist's marks: with pytest 9.2 its loadgroup no longer sees them, and every test is a group.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        tier = file.removeprefix("tests/").partition("/")[0]
        return nodeid if tier == "unit" else tier if tier in ("e2e", "container", "browser") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return _SharedPrograms(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the machine's and no .env decides a test."""
    keep = {"PATH", "HOME", "LANG", "TMPDIR", "CI", "LD_LIBRARY_PATH"}
    passed_on = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))}
    for key in set(os.environ) - keep - set(passed_on) - {"PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(key)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """The root logger is afterwards as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def settings() -> Settings:
    """The defaults."""
    return Settings()
