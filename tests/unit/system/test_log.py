"""Logs: one line a record in both formats, and never a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from vllm_engine.system.log import configure_logging


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_formats() -> None:
    """JSON records carry time, level, source and message; console lines name level and source."""
    out = io.StringIO()
    configure_logging("info", "auto", stream=out)
    logging.getLogger("engine").info("two\nlines %d", 1)
    record = json.loads(out.getvalue())
    assert (record["level"], record["source"], record["message"]) == ("INFO", "engine", "two\nlines 1")
    assert "time" in record
    out = io.StringIO()
    configure_logging("warning", "console", stream=out)
    logging.getLogger("gateway").info("hidden")
    logging.getLogger("gateway").warning("shown")
    (line,) = out.getvalue().splitlines()
    assert line.endswith("WARNING gateway: shown")


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_blanked(format: str) -> None:
    """In messages, in arguments and in tracebacks."""
    out = io.StringIO()
    configure_logging("info", format, secrets=["hf_secret", 'q"uote'], stream=out)  # type: ignore[arg-type]
    logger = logging.getLogger("engine")
    logger.info("token hf_secret")
    logger.info("token %s", "hf_secret")
    logger.info('q"uote')
    try:
        raise ValueError("hf_secret")
    except ValueError:
        logger.exception("failed")
    assert "hf_secret" not in out.getvalue()
    assert "uote" not in out.getvalue()
    assert out.getvalue().count("***") == 5
