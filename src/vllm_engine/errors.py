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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    """One wrong setting: which, its value, and what was wanted; what to do may follow after a semicolon."""

    key: str
    value: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.key}={_quoted(self.value)}: {self.wanted}"

    @property
    def cause(self) -> str:
        """What is wrong, without what to do about it."""
        return f"{self.key}={_quoted(self.value)}: {self.wanted.partition('; ')[0]}"

    @property
    def remedy(self) -> str:
        """What to do."""
        wanted, _, remedy = self.wanted.partition("; ")
        legal = wanted.removeprefix("expected ")
        return remedy or (f"correct {self.key}" if legal == wanted else f"set {self.key} to {legal}")


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong, why, and what to do about it.

    Attributes:
        code: the catalogue's id; stable, so that programs may act on it.
        message: what happened and its cause, in one sentence without a full stop.
        remedy: what to do, naming settings and values; empty where nothing is known.
        retryable: whether the same start may well succeed when it is tried again.
        evidence: the engine's line that the cause was read from.
        changes: settings, by variable, with which a start may succeed; computed for this case.
    """

    code: str
    message: str
    remedy: str = ""
    retryable: bool = False
    evidence: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.message, self.remedy))) + f" [{self.code}]"

    @property
    def docs(self) -> str:
        """Where the documentation explains it."""
        return f"docs/troubleshooting.md#{self.code}"

    @property
    def body(self) -> dict[str, str]:
        """What `/healthz` shows of it."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy, "docs": self.docs}


class VllmEngineError(Exception):
    """Anything that ends the program with a sentence for its user."""

    exit_code: ClassVar[ExitCode] = ExitCode.CRASH
    code: ClassVar[str] = "unknown"
    """The catalogue's id of such an error that was raised without a diagnosis."""

    def __init__(self, told: str | Diagnosis) -> None:
        super().__init__(str(told))
        self.diagnosis = told if isinstance(told, Diagnosis) else Diagnosis(self.code, told)


class SettingsError(VllmEngineError):
    """One or more settings cannot be used; all of them are reported together."""

    exit_code = ExitCode.BAD_SETTINGS
    code = "bad-settings"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
        self.diagnosis = Diagnosis(
            self.code,
            "; ".join(problem.cause for problem in self.problems),
            "; ".join(problem.remedy for problem in self.problems),
        )


class EngineError(VllmEngineError):
    """The engine ended although nobody asked it to."""


class StartupError(EngineError):
    """The engine cannot start with this configuration."""

    exit_code = ExitCode.STARTUP_FAILED
    code = "cannot-start"


class ModelError(StartupError):
    """The model could not be found, fetched or prepared."""

    code = "model-unusable"


class StartupTimeoutError(StartupError):
    """The engine did not generate a token within `STARTUP_TIMEOUT_SECONDS`."""

    code = "startup-timeout"


def error_body(message: str, *, type: str, code: int | str, param: str | None = None) -> dict[str, Any]:
    """Return the error body every OpenAI client understands.

    The shape is that of OpenAI's API reference, which vLLM's own errors share.
    """
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def _quoted(value: str) -> str:
    shortened = value if len(value) <= 200 else value[:197] + "..."
    text = json.dumps(shortened, ensure_ascii=False)
    # Such as lone surrogates, which stand for bytes that are not UTF-8.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
