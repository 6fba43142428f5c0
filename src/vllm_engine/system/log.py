"""Console and JSON logs on standard error, with secrets masked."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Literal, TextIO

from pythonjsonlogger.json import JsonFormatter

LogFormat = Literal["auto", "console", "json"]

ENGINE_LOGGER = "engine"
"""The logger of the engine's own output; all others are `gateway` or below it."""


_CONSOLE = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S")
_JSON = JsonFormatter(
    "%(asctime)s %(levelname)s %(name)s %(message)s",
    rename_fields={"asctime": "time", "levelname": "level", "name": "source"},
    datefmt="%Y-%m-%dT%H:%M:%S%z",
)


class Redacting(logging.Formatter):
    """Masks known secrets in whatever another formatter returns, tracebacks included."""

    def __init__(self, inner: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets: set[str] = set()
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Mask these as well from now on."""
        # As they are and as escaped in JSON. Never changed in place: other threads log as well.
        forms = {form for secret in secrets if secret for form in (secret, json.dumps(secret)[1:-1])}
        self._secrets = self._secrets | forms

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted line with secrets masked."""
        line = self._inner.format(record)
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line


def configure_logging(level: str, format: LogFormat, secrets: Sequence[str] = ()) -> None:
    """Send every log record to standard error in one format.

    Args:
        level: the lowest level to log, in lower case.
        format: `auto` means console on a terminal and JSON elsewhere.
        secrets: values to mask.
    """
    handler = _ToStandardError()
    handler.setFormatter(Redacting(_CONSOLE if is_console(format) else _JSON, secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("asyncio", "aiohttp", "opentelemetry", "urllib3", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def add_secrets(secrets: Iterable[str]) -> None:
    """Mask these values as well from now on, such as keys that were added to a file."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, Redacting):
            handler.formatter.add(secrets)


def is_console(format: LogFormat) -> bool:
    """Whether the lines on standard error are in the console format."""
    return format == "console" or (format == "auto" and sys.stderr.isatty())


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Looks up `sys.stderr` for each line: a progress bar replaces it to keep lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr
