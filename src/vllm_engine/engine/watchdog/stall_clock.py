"""Pure: for how long an engine has had work and shown no sign of doing it."""

from __future__ import annotations

from collections.abc import Hashable


class StallClock:
    """Adds up the time in which there was work, from one sign of progress to the next.

    That requests end is no sign: their clients may have given up. Nor is time without any held against it.
    """

    def __init__(self) -> None:
        self._sign: Hashable = None
        self._stalled = 0.0
        self._then: float | None = None

    def seconds(self, now: float, running: int, sign: Hashable) -> float:
        """Return it, given how many requests are at the engine and what changes as it works on them."""
        if sign != self._sign:
            self._sign, self._stalled = sign, 0.0
        elif self._then is not None:
            self._stalled += now - self._then
        self._then = now if running else None
        return self._stalled
