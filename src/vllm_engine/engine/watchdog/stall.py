"""Pure: how long the engine has made no progress, and how long one of its steps may take."""

from __future__ import annotations

from collections.abc import Hashable

LEAST_SECONDS = 20.0
"""With `CANARY_INTERVAL_SECONDS=30`, an engine that stops while it is idle is noticed within a minute."""
_FACTOR = 5.0
"""Times the longest step so far: a machine may be that much busier than it was."""


class StallClock:
    """Adds up the time with requests at the engine and without progress.

    Requests that end are no progress, since their clients may have given up; time without any does not count.
    """

    def __init__(self) -> None:
        self._progress: Hashable = None
        self._stalled = 0.0
        self._then: float | None = None

    def seconds(self, now: float, running: int, progress: Hashable) -> float:
        """Return the time so far; `progress` changes whenever the engine works."""
        if progress != self._progress:
            self._progress, self._stalled = progress, 0.0
        elif self._then is not None:
            self._stalled += now - self._then
        self._then = now if running else None
        return self._stalled


class StepLimit:
    """How long one step may take: five times the longest that this engine has completed, within bounds."""

    def __init__(self, most_seconds: float) -> None:
        """Take the upper bound (`HANG_TIMEOUT_SECONDS`)."""
        self.most_seconds = most_seconds
        self._longest = 0.0

    def completed(self, seconds: float) -> None:
        """Record that a step, such as the first token, was completed after so long."""
        self._longest = max(self._longest, seconds)

    @property
    def seconds(self) -> float:
        """The present limit."""
        return min(self.most_seconds, max(LEAST_SECONDS, _FACTOR * self._longest))
