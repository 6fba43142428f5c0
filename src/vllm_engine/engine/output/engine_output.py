"""Pure: parses a line of the engine's output into level, process and message."""

from __future__ import annotations

import logging
import re
from typing import NamedTuple

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_LOGO = re.compile(r"^\s*[\u2580-\u259f][\u2580-\u259f\s]*")
"""A row of vLLM's banner begins with block elements; words may follow. A bar of progress has words before."""
_PREFIX = re.compile(
    r"^(?:\((?P<process>[\w-]+)(?: rank=\d+)?(?: pid=\d+)?\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL)\b:? *)?"
    r"(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[\w./]+(?:\.py|\.rs):\d+\](?: |$))?"
)
_IDLE = re.compile(
    r"(?:[\w ]+: )?Avg prompt \w+: 0\.[0-2] \w+/s, Avg generation \w+: 0\.[0-2] \w+/s, "
    r"(?:Reqs )?Running: 0\b[\w ]*, Waiting: 0\b"
)
"""vLLM logs its throughput every ten seconds, at DEBUG while it is idle. The token that the watchdog asks for
now and then is work to it, and so an idle engine would log for ever. More than two tokens read otherwise.
"""


class LogLine(NamedTuple):
    """Where a line comes from and what it says; level and process are None where the line has none."""

    level: str | None
    process: str | None
    message: str

    @property
    def severity(self) -> int:
        """Its level as a number of the logging module's; a line without one is information."""
        return logging.getLevelNamesMapping()[self.level or "INFO"]

    def __str__(self) -> str:
        """Say it as the log does."""
        return f"{self.process}: {self.message}" if self.process else self.message


def parse_line(raw: str) -> LogLine:
    """Parse a line of either frontend; of vLLM's banner only the words are kept.

    The throughput of an idle engine is of level DEBUG.
    """
    text = _ANSI.sub("", raw)
    match = _PREFIX.match(text)
    assert match is not None  # noqa: S101 - all of its parts are optional
    level, message = match["level"], _LOGO.sub("", text[match.end() :])
    return LogLine("DEBUG" if _IDLE.match(message) else level, match["process"], message)
