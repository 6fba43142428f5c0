"""The result of one check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

from vllm_engine.errors import Problem


class Status(StrEnum):
    """The outcome of a check: `warn` may still work, `fail` will not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One check: what was found, and which setting or action fixes it."""

    id: str
    status: Status
    sentence: str
    remedy: str | None = None

    def __str__(self) -> str:
        return self.sentence if self.remedy is None else f"{self.sentence}; {self.remedy}"

    def as_json(self) -> dict[str, str | None]:
        """Return it as a JSON-able object."""
        return {**asdict(self), "status": self.status.value}


def ok(id: str, sentence: str) -> Check:
    """Return a check that found no problem."""
    return Check(id, Status.OK, sentence)


def warn(id: str, sentence: str, remedy: str) -> Check:
    """Return a check that found something that may not work."""
    return Check(id, Status.WARN, sentence, remedy)


def fail(id: str, sentence: str, remedy: str) -> Check:
    """Return a check that found something that will not work."""
    return Check(id, Status.FAIL, sentence, remedy)


def failed_by(problems: Iterable[Problem], id: str, *keys: str) -> Check | None:
    """Return a failed check for the first problem with one of these settings (or with any); else None."""
    for problem in problems:
        if not keys or problem.key in keys:
            return fail(id, problem.cause, problem.remedy)
    return None


def any_failed(checks: Iterable[Check]) -> bool:
    """Whether one of them failed."""
    return any(check.status is Status.FAIL for check in checks)
