"""Pure: whether and when an engine that was lost is started again."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

FIRST_DELAY_SECONDS = 0.25
LONGEST_DELAY_SECONDS = 60.0


class RestartBudget:
    """Counts restarts in a sliding window; each in the window doubles the wait before the next."""

    def __init__(
        self,
        limit: int,
        window_seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._limit = limit
        self._window = window_seconds
        self._clock = clock
        self._jitter = jitter
        self._restarts: deque[float] = deque()

    def __str__(self) -> str:
        """Say how many of how many there have been."""
        return f"restart {self.used} of {self._limit} in {self._window:g} s"

    @property
    def used(self) -> int:
        """How many restarts the window holds now."""
        now = self._clock()
        while self._restarts and now - self._restarts[0] > self._window:
            self._restarts.popleft()
        return len(self._restarts)

    def take(self) -> float | None:
        """Return the seconds to wait before the next start, or None if it must not be started again.

        The wait is between half of a doubling delay and all of it: several engines that were lost together
        do not come back together.
        """
        used = self.used
        if used >= self._limit:
            return None
        self._restarts.append(self._clock())
        delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0**used)
        return delay * (0.5 + self._jitter() / 2)
