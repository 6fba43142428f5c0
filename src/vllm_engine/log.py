"""Console and JSON logs on standard error, with secrets blanked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

ENGINE_LOGGER = "engine"
"""Logger of the lines that the engine prints; everything else is `gateway` or below it."""


class Redaction(logging.Filter):
    """Blank known secret values wherever they appear in a message."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        self._secrets = tuple(secret for secret in secrets if secret)

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place; always keeps it."""
        message = record.getMessage()
        for secret in self._secrets:
            message = message.replace(secret, "***")
        record.msg, record.args = message, None
        return True


def configure_logging(
    level: str,
    format: Literal["auto", "console", "json"],
    *,
    secrets: Sequence[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Send every log record to `stream` (standard error) in one format.

    Args:
        level: least severe level to show, lower case.
        format: `auto` is console on a terminal and JSON elsewhere.
        secrets: values that must never be printed.
        stream: where to write.
    """
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    as_json = format == "json" or (format == "auto" and not out.isatty())
    handler.setFormatter(_json_formatter() if as_json else _ConsoleFormatter())
    handler.addFilter(Redaction(secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "aiohttp", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _json_formatter() -> logging.Formatter:
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "source"},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


class _ConsoleFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")
