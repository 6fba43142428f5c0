"""Drops a traceback that vLLM prints a second time: once through its logger, then as Python itself does."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from vllm_engine.engine.output.engine_output import LogLine, parse_line

_HEAD = "Traceback (most recent call last):"
_MOST_LINES = 500
"""More are not held back, or remembered: a traceback is shorter."""


class RepeatedTracebacks:
    """Takes the lines of one engine and gives back those that say something new.

    A plain traceback is held back until its last line, the exception. If the same process has logged that
    exception as an error, everybody has seen where it came from.
    """

    def __init__(self) -> None:
        self._logged: deque[tuple[str | None, str]] = deque(maxlen=_MOST_LINES)
        self._held: list[LogLine] = []

    def feed(self, line: LogLine) -> list[LogLine]:
        """Take the next line; returns what is to be shown now."""
        if line.level in ("ERROR", "CRITICAL"):
            self._logged.append((line.process, line.message.strip()))
        if not self._held:
            if line.level is None and line.message == _HEAD:
                self._held = [line]
                return []
            return [line]
        if not _belongs(line, self._held):
            return [*self.flush(), *self.feed(line)]
        self._held.append(line)
        if line.message.startswith(" ") or not line.message:
            return self.flush() if len(self._held) > _MOST_LINES else []
        held = self.flush()
        return [] if (line.process, line.message.strip()) in self._logged else held

    def flush(self) -> list[LogLine]:
        """Return what is held back: nothing more belongs to it."""
        held, self._held = self._held, []
        return held


def without_repeats(lines: Iterable[str]) -> list[LogLine]:
    """Parse lines of an engine's output; what they say twice, and empty ones, are left out."""
    news = RepeatedTracebacks()
    found = [new for line in lines for new in news.feed(parse_line(line))] + news.flush()
    return [line for line in found if line.message.strip()]


def _belongs(line: LogLine, held: list[LogLine]) -> bool:
    return line.level is None and line.process == held[0].process and line.message != _HEAD
