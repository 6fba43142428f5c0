"""Logs: one line a record in both formats, and never a secret."""

from __future__ import annotations

import json
import logging
from typing import Literal

import pytest

from vllm_engine.system.log import configure_logging

pytestmark = pytest.mark.usefixtures("restored_logging")


def test_formats(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON records carry time, level, source and message; console lines name level and source."""
    configure_logging("info", "auto")
    logging.getLogger("engine").info("two\nlines %d", 1)
    record = json.loads(capsys.readouterr().err)
    assert (record["level"], record["source"], record["message"]) == ("INFO", "engine", "two\nlines 1")
    assert "time" in record
    configure_logging("warning", "console")
    logging.getLogger("gateway").info("hidden")
    logging.getLogger("gateway").warning("shown")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("WARNING gateway: shown")


@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_masked(format: Literal["json", "console"], capsys: pytest.CaptureFixture[str]) -> None:
    """In messages, in arguments and in tracebacks."""
    configure_logging("info", format, ["hf_secret", 'q"uote'])
    logger = logging.getLogger("engine")
    logger.info("token hf_secret")
    logger.info("token %s", "hf_secret")
    logger.info('q"uote')
    try:
        raise ValueError("hf_secret")
    except ValueError:
        logger.exception("failed")
    logged = capsys.readouterr().err
    assert "hf_secret" not in logged
    assert "uote" not in logged
    assert logged.count("***") == 5
