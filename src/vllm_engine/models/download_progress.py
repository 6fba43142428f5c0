"""How far a model's download is, and at what rate it comes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

RATE_WINDOW_SECONDS = 10.0
_LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class Download:
    """How much of a model's files is on this machine at one moment, what was there before included."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    bytes_per_second: float | None = None
    """None until a second has been seen."""

    @property
    def fraction(self) -> float | None:
        """The share of bytes that is there; None for no bytes at all."""
        return min(1.0, self.bytes_done / self.bytes_total) if self.bytes_total else None

    @property
    def remaining_seconds(self) -> float | None:
        """How long the rest takes at the present rate; None without one."""
        left = max(0, self.bytes_total - self.bytes_done)
        return left / self.bytes_per_second if self.bytes_per_second else None

    def __str__(self) -> str:
        """Say it in one line: files, bytes, rate, time left."""
        return f"{self.files_done} of {self.files_total} files, {self.amount}"

    @property
    def amount(self) -> str:
        """Bytes, rate and time left."""
        text = f"{human_bytes(self.bytes_done)} of {human_bytes(self.bytes_total)}"
        if self.bytes_per_second is not None:
            text += f", {human_bytes(self.bytes_per_second)}/s"
        if self.remaining_seconds is not None:
            text += f", {human_seconds(self.remaining_seconds)} left"
        return text


class Rate:
    """Bytes per second over the last `RATE_WINDOW_SECONDS`."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, bytes_done: int) -> float | None:
        """Record how much is there now; returns the rate, None until a second has been seen.

        A file that is fetched again takes bytes away: the rate then starts afresh.
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
