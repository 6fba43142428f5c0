"""Pure: a line of the engine's output, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PREFIX = re.compile(
    r"^(?:\((?P<process>[\w-]+)(?: pid=\d+)?\) )?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL):? +)?"
    r"(?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[\w./]+(?:\.py|\.rs):\d+\] )?"
)


@dataclass(frozen=True)
class LogLine:
    """A line of the engine's, taken apart."""

    level: str
    process: str | None
    message: str


def parse_line(raw: str) -> LogLine:
    """Take a line of either frontend apart; a line without a level counts as INFO."""
    text = _ANSI.sub("", raw)
    match = _PREFIX.match(text)
    level = match["level"] if match else None
    process = match["process"] if match else None
    message = text[match.end() :] if match else text
    return LogLine(level or "INFO", process, message)
