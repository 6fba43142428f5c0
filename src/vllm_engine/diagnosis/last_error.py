"""Pure: the line of a dead engine's output that says best why it died."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vllm_engine.engine.startup.log_progress import parse_line

_EXCEPTION = re.compile(r"^\s*(?:[\w.]+\.)?(?:\w*(?:Error|Exception|Interrupt)|SystemExit): (?P<text>.+)")
_PYDANTIC = re.compile(r"^\s*(?:Value|Assertion) error, (?P<text>.+?)(?: \[type=.*)?$")
_ARGPARSE = re.compile(r"^(?:vllm serve|api_server\.py|main\.py|vllm|usage)?:? ?error: (?P<text>.+)")
_ECHOES = ("root cause above", "See stack trace", "Engine core initialization failed", "Failed core proc")
"""Errors by which vLLM's other processes repeat that one of them has failed."""


def last_error(tail: Sequence[str]) -> str | None:
    """Return the newest error in `tail` that is a cause and not the echo of one; None without any."""
    found: str | None = None
    for raw in tail:
        line = parse_line(raw).message
        for pattern in (_EXCEPTION, _PYDANTIC, _ARGPARSE):
            match = pattern.match(line)
            if match and not any(echo in line for echo in _ECHOES):
                found = line.strip() if pattern is _EXCEPTION else match["text"].strip()
    return found
