"""How far the weights' download is: a snapshot, and the rate at which it comes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum

RATE_WINDOW_SECONDS = 10.0
_LEAST_SECONDS = 1.0


class Weights(StrEnum):
    """Whether the weights are on this machine."""

    PRESENT = "present"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Download:
    """A download at one moment; totals are None where the hub did not tell sizes.

    Attributes:
        is_coming: whether a weight file is on its way right now.
    """

    weights: Weights
    is_coming: bool
    files_done: int
    bytes_done: int
    files_total: int | None = None
    bytes_total: int | None = None
    bytes_per_second: float | None = None

    @property
    def fraction(self) -> float | None:
        """The share of bytes that is there."""
        return min(1.0, self.bytes_done / self.bytes_total) if self.bytes_total else None

    @property
    def remaining_seconds(self) -> float | None:
        """How long the rest takes at the present rate; None where rate or total are unknown."""
        if self.bytes_total is None or not self.bytes_per_second:
            return None
        return max(0, self.bytes_total - self.bytes_done) / self.bytes_per_second

    def __str__(self) -> str:
        """Say it in one line: files, bytes, rate, time left."""
        files = (
            f"{self.files_done}" if self.files_total is None else f"{self.files_done} of {self.files_total}"
        )
        size = human_bytes(self.bytes_done)
        parts = [
            f"{files} files",
            size if self.bytes_total is None else f"{size} of {human_bytes(self.bytes_total)}",
        ]
        if self.bytes_per_second is not None:
            parts.append(f"{human_bytes(self.bytes_per_second)}/s")
        if self.remaining_seconds is not None:
            parts.append(f"{human_seconds(self.remaining_seconds)} left")
        return ", ".join(parts)


class Rate:
    """Bytes per second over the last `RATE_WINDOW_SECONDS`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, bytes_done: int) -> float | None:
        """Note how much is there now; returns the rate, None until a second has been seen.

        A file that is begun anew takes bytes away: the rate then starts afresh.
        """
        if self._seen and bytes_done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, bytes_done))
        while len(self._seen) > 1 and self._seen[1][0] <= now - RATE_WINDOW_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        return (bytes_done - before) / (now - then) if now - then >= _LEAST_SECONDS else None


def human_bytes(count: float) -> str:
    """Return a size in decimal units, as the hub shows them."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def human_seconds(seconds: float) -> str:
    """Return a duration as a person would say it."""
    whole = round(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02} s"
