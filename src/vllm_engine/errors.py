"""The exception tree, the exit codes, and the one OpenAI-shaped error body.

::

    VllmEngineError
    ├── SettingsError        exit 2: a value to change before anything can start
    └── EngineError          exit 1: the engine died after it had been ready
        └── StartupError     exit 3: the engine cannot start with this configuration
            ├── ModelError   the model could not be found, downloaded or prepared
            ├── RefusedError exit 2: the engine refuses a value of the user's
            └── StartupTimeoutError
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """The program's exit status, for process managers."""

    CLEAN = 0
    CRASH = 1
    BAD_SETTINGS = 2
    STARTUP_FAILED = 3


@dataclass(frozen=True)
class Problem:
    """One invalid setting: its name, its value and why; what to do may follow after a semicolon.

    A `message` that begins with "expected" names the legal values, from which the remedy is made. None as the
    `value` is a setting that is not set.
    """

    key: str
    value: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.assignment}: {self.message}"

    @property
    def assignment(self) -> str:
        """The setting and its value."""
        return f"{self.key} is not set" if self.value is None else f"{self.key}={_quoted(self.value)}"

    @property
    def cause(self) -> str:
        """What is wrong, without the remedy."""
        return f"{self.assignment}: {self.message.partition('; ')[0]}"

    @property
    def remedy(self) -> str:
        """What to do."""
        message, _, remedy = self.message.partition("; ")
        legal = message.removeprefix("expected ")
        return remedy or (f"correct {self.key}" if legal == message else f"set {self.key} to {legal}")


@dataclass(frozen=True)
class OptionProblem(Problem):
    """Words of the command line that cannot be taken: `key` is what is shown of them."""

    @property
    def assignment(self) -> str:
        """The words."""
        return self.key


@dataclass(frozen=True)
class IllegalValue(Problem):
    """A value that cannot be read at all: the checks after it see the setting's default instead."""


def told_once(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return problems by their setting's name, each once.

    What else is said of a setting whose value is illegal concerns its default, and is left out.
    """
    distinct = dict.fromkeys(problems)
    illegal = {problem.key for problem in distinct if isinstance(problem, IllegalValue)}
    kept = (each for each in distinct if isinstance(each, IllegalValue) or each.key not in illegal)
    return tuple(sorted(kept, key=lambda problem: problem.key))


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong, why, and what to do about it.

    Attributes:
        code: the catalogue's id; stable, so that programs may act on it.
        message: what happened and its cause, in one sentence without a full stop.
        remedy: what to do, naming settings and values; empty if unknown.
        retryable: whether another start with the same settings may succeed.
        evidence: the line of the engine's log that shows the cause.
        changes: settings, by variable, that may let a start succeed; computed for this case.
        is_setting: whether the cause is a value that the engine refuses, so that nothing else would help.
        is_symptom: whether something else must be behind it, of which the engine's log does not tell.
    """

    code: str
    message: str
    remedy: str = ""
    retryable: bool = False
    evidence: str | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    is_setting: bool = False
    is_symptom: bool = False

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.message, self.remedy))) + f" [{self.code}]"

    @property
    def docs(self) -> str:
        """The section of the documentation that explains it."""
        return f"docs/operate/troubleshooting.md#{self.code}"

    @property
    def body(self) -> dict[str, str]:
        """What `/healthz` shows of it."""
        return {"code": self.code, "message": self.message, "remedy": self.remedy, "docs": self.docs}


class VllmEngineError(Exception):
    """An error that ends the program with a message for its user."""

    exit_code: ClassVar[ExitCode] = ExitCode.CRASH
    code: ClassVar[str] = "unknown"
    """The id in the catalogue of failures, for an error raised without a diagnosis."""

    def __init__(self, reason: str | Diagnosis) -> None:
        super().__init__(str(reason))
        self.diagnosis = reason if isinstance(reason, Diagnosis) else Diagnosis(self.code, reason)


class SettingsError(VllmEngineError):
    """One or more settings are invalid; all of them are reported together, sorted by name."""

    exit_code = ExitCode.BAD_SETTINGS
    code = "bad-settings"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = told_once(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))
        self.diagnosis = Diagnosis(
            self.code,
            "; ".join(problem.cause for problem in self.problems),
            "; ".join(problem.remedy for problem in self.problems),
        )


class EngineError(VllmEngineError):
    """The engine exited unexpectedly."""


class StartupError(EngineError):
    """The engine cannot start with this configuration."""

    exit_code = ExitCode.STARTUP_FAILED
    code = "cannot-start"


class ModelError(StartupError):
    """The model could not be found, downloaded or prepared."""

    code = "model-unusable"


class RefusedError(StartupError):
    """The engine refuses the value of a setting or flag, which it could check only itself."""

    exit_code = ExitCode.BAD_SETTINGS


class StartupTimeoutError(StartupError):
    """The engine did not generate a token within `STARTUP_TIMEOUT_SECONDS`."""

    code = "startup-timeout"


def error_body(message: str, *, type: str, code: int | str, param: str | None = None) -> dict[str, Any]:
    """Return an error body in the shape of OpenAI's API reference, which vLLM's own errors share."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def _quoted(value: str) -> str:
    shortened = value if len(value) <= 200 else value[:197] + "..."
    text = json.dumps(shortened, ensure_ascii=False)
    # Unprintable are also lone surrogates, which stand for bytes that are not UTF-8.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
