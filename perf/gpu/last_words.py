"""What a server's log says of why it failed."""

from __future__ import annotations

import json
from collections.abc import Iterator

from vllm_engine.engine.output.engine_exit import EngineExit

MAX_CHARS = 300
_BAD = ("WARNING", "ERROR", "CRITICAL")


def last_words(text: str) -> str:
    """Return the error that a log ends with, or else its last lines; of JSON lines, what they warn of. Pure."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    printed = [line for line in lines if not line.startswith("{")]
    ours = [line for line in printed if line.startswith("vllm-engine: ")]
    error = None if ours else EngineExit(None, tuple(printed), was_ready=False).last_error
    if error:
        return error[:MAX_CHARS]
    said = ours or list(_said(lines)) or ["its log says nothing"]
    words = said[-1][:MAX_CHARS]
    for line in reversed(said[:-1]):
        if len(longer := f"{line} | {words}") > MAX_CHARS:
            break
        words = longer
    return words


def _said(lines: list[str]) -> Iterator[str]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            yield line
            continue
        if not isinstance(entry, dict):
            yield line
        elif entry.get("level") in _BAD and entry.get("source") != "gateway.access":
            yield str(entry.get("message"))
