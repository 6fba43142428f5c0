"""The engine's last failures with their diagnoses, for the page."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime

from pydantic import BaseModel

from vllm_engine.engine.engine_state import EngineState, EngineStatus, StatusReader

KEPT = 20
_MAX_TEXT = 2000
"""A diagnosis may quote the engine's own words, which have no bound."""


class Failure(BaseModel):
    """One engine lost or one failed start, and its diagnosis."""

    time: datetime
    start: int
    """Which start of the engine it was, from 1."""
    is_final: bool
    """Whether no other start followed."""
    code: str
    message: str
    remedy: str


class RecentFailures:
    """Keeps the last failures in memory, newest first; a restart of this program forgets them."""

    def __init__(self, status: StatusReader) -> None:
        self._kept: deque[Failure] = deque(maxlen=KEPT)
        self._last = status.current.state
        status.watch(self._changed)

    @property
    def kept(self) -> tuple[Failure, ...]:
        """The failures, newest first."""
        return tuple(self._kept)

    def _changed(self, now: EngineStatus) -> None:
        was, self._last = self._last, now.state
        if now.error is not None and now.state is not was:
            failure = Failure(
                time=datetime.now(UTC),
                start=now.starts,
                is_final=now.state is EngineState.FAILED,
                code=now.error.code,
                message=_short(now.error.message),
                remedy=_short(now.error.remedy),
            )
            self._kept.appendleft(failure)


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
