"""The exception tree, the exit codes, and the one OpenAI-shaped error body.

::

    VllmEngineError
    ├── SettingsError        exit 2: a value to change before anything can start
    └── EngineError          exit 1: the engine died after it had been ready
        └── StartupError     exit 3: the engine cannot start with this configuration
            ├── ModelError   the model could not be found, fetched or prepared
            └── StartupTimeoutError
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """What the program's exit status says to a process manager."""

    CLEAN = 0
    CRASH = 1
    BAD_SETTINGS = 2
    STARTUP_FAILED = 3


@dataclass(frozen=True)
class Problem:
    """One wrong setting: which, its value, and what was wanted or what to do."""

    key: str
    value: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.key}={_quoted(self.value)}: {self.wanted}"


class VllmEngineError(Exception):
    """Anything that ends the program with a sentence for its user."""

    exit_code: ClassVar[ExitCode] = ExitCode.CRASH


class SettingsError(VllmEngineError):
    """One or more settings cannot be used; all of them are reported together."""

    exit_code = ExitCode.BAD_SETTINGS

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class EngineError(VllmEngineError):
    """The engine ended although nobody asked it to."""


class StartupError(EngineError):
    """The engine cannot start with this configuration."""

    exit_code = ExitCode.STARTUP_FAILED


class ModelError(StartupError):
    """The model could not be found, fetched or prepared."""


class StartupTimeoutError(StartupError):
    """The engine did not generate a token within `STARTUP_TIMEOUT_SECONDS`."""


def error_body(message: str, *, type: str, code: int | str, param: str | None = None) -> dict[str, Any]:
    """Return the error body every OpenAI client understands.

    The shape is that of OpenAI's API reference, which vLLM's own errors share.
    """
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def _quoted(value: str) -> str:
    shortened = value if len(value) <= 200 else value[:197] + "..."
    return json.dumps(shortened, ensure_ascii=False)
