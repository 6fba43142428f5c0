"""What a check says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum

GIB = 1 << 30


class Status(StrEnum):
    """How a check ended: `warn` may work, `fail` will not."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and which setting or act would mend it."""

    id: str
    status: Status
    sentence: str
    remedy: str | None = None

    def __str__(self) -> str:
        """Say it in one line."""
        return self.sentence if self.remedy is None else f"{self.sentence}; {self.remedy}"

    def as_json(self) -> dict[str, str | None]:
        """Return it as a JSON-able object."""
        return {**asdict(self), "status": self.status.value}


def ok(id: str, sentence: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(id, Status.OK, sentence)


def warn(id: str, sentence: str, remedy: str) -> Check:
    """Return a check that found something doubtful."""
    return Check(id, Status.WARN, sentence, remedy)


def fail(id: str, sentence: str, remedy: str) -> Check:
    """Return a check that found what will not work."""
    return Check(id, Status.FAIL, sentence, remedy)


def any_failed(checks: Iterable[Check]) -> bool:
    """Whether one of them failed."""
    return any(check.status is Status.FAIL for check in checks)


def gib(count: float) -> str:
    """Return a size of memory in binary units, as GPU makers and vLLM print them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / (1 << 20):.0f} MiB"
