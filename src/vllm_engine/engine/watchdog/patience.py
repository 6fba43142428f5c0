"""Pure: for how long an engine may be silent, by what it has taken before."""

from __future__ import annotations

LEAST_SECONDS = 20.0
"""With `CANARY_INTERVAL_SECONDS=30`, an engine that stops while it is idle is noticed within a minute."""
_FACTOR = 5.0
"""Times the longest step it has ever taken: a machine may be that much busier than it was."""


class Patience:
    """Grows with the longest step that an engine has taken and come through."""

    def __init__(self, most_seconds: float) -> None:
        """Take what it never exceeds (`HANG_TIMEOUT_SECONDS`)."""
        self.most_seconds = most_seconds
        self._longest = 0.0

    def took(self, seconds: float) -> None:
        """Note that a step, such as its first token, was done after so long."""
        self._longest = max(self._longest, seconds)

    @property
    def seconds(self) -> float:
        """How long one step may take before something is wrong."""
        return min(self.most_seconds, max(LEAST_SECONDS, _FACTOR * self._longest))
