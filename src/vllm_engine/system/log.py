"""Console and JSON logs on standard error, with secrets blanked."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

ENGINE_LOGGER = "engine"
"""Logger of the lines that the engine prints; everything else is `gateway` or below it."""


class Redacting(logging.Formatter):
    """Formats with another formatter and blanks known secrets in the whole line, tracebacks included."""

    def __init__(self, inner: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets: set[str] = set()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Blank these too from now on."""
        # As they are, and as a JSON string spells them. Never changed in place: threads log as well.
        forms = {form for secret in secrets if secret for form in (secret, json.dumps(secret)[1:-1])}
        self._secrets = self._secrets | forms

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without any secret."""
        line = self._inner.format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


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
    handler = _ToStandardError() if stream is None else logging.StreamHandler(stream)
    formatter = _console_formatter() if is_console(format, out) else _json_formatter()
    handler.setFormatter(Redacting(formatter, secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "aiohttp", "opentelemetry", "urllib3", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def add_secrets(secrets: Iterable[str]) -> None:
    """Blank these values too in every line from now on, such as keys that a file has newly got."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, Redacting):
            handler.formatter.add(secrets)


def is_console(format: Literal["auto", "console", "json"], stream: TextIO | None = None) -> bool:
    """Say whether lines to `stream` (standard error) are for people."""
    return format == "console" or (format == "auto" and (stream or sys.stderr).isatty())


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Looks standard error up for each line: a live bar puts itself in its place and keeps lines above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _json_formatter() -> logging.Formatter:
    return JsonFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "source"},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )


def _console_formatter() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")
