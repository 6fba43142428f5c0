"""deploy/observability/log.schema.json: every kind of line that the program writes is valid, and others are not."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from vllm_engine.engine.engine_state import EngineState, Phase, StatusBoard
from vllm_engine.engine.startup.start_history import StartHistory, StartRecorder
from vllm_engine.gateway.observe.access_log import log_access
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.models.download_progress import Download, Weights
from vllm_engine.system.log import configure_logging

FILE = Path(__file__).parents[3] / "deploy/observability/log.schema.json"
SCHEMA = json.loads(FILE.read_text())


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """JSON logs at DEBUG, into memory."""
    kept = logging.getLogger().handlers[:], logging.getLogger().level
    out = io.StringIO()
    configure_logging("debug", "json", stream=out)
    yield out
    logging.getLogger().handlers[:], level = kept
    logging.getLogger().setLevel(level)


def checked(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the lines; each is valid."""
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    for line in lines:
        Draft202012Validator(SCHEMA).validate(line)
    return lines


def test_the_schema_itself() -> None:
    """It is a valid one."""
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_requests(stream: io.StringIO, outcome: Outcome) -> None:
    """Whatever a request came to; nothing of it is missing or new."""
    log_access(RequestRecord("a", "GET", "/livez", received=1.0, ended=2.0))
    full = RequestRecord("b", "POST", "/v1/x", route="/v1/x", key="k", status=200, received=1.0, ended=2.0)
    full.first_byte, full.prompt_tokens, full.completion_tokens, full.is_stream = 1.5, 1, 2, True
    full.outcome, full.reason = outcome, "poison" if outcome is Outcome.FAILED else None
    log_access(full, "m")
    log_access(RequestRecord("c", "POST", "/v1/x", received=1.0, ended=1.0, outcome=outcome), "m")
    assert [line["request_id"] for line in checked(stream)] == ["a", "b", "c"]


def test_a_start(stream: io.StringIO, tmp_path: Path) -> None:
    """Phases and a download, with and without totals."""
    board = StatusBoard()
    StartRecorder(board, StartHistory(tmp_path / "starts.json")).begins("key")
    board.downloading(Download(Weights.MISSING, is_coming=True, files_done=1, bytes_done=2))
    for phase in list(Phase)[3:]:
        board.progress(phase)
    board.move(EngineState.READY)
    lines = checked(stream)
    assert [line["next_phase"] for line in lines if "next_phase" in line][-1] == "ready"
    assert [line["files_done"] for line in lines if "files_done" in line] == [1]


def test_a_defect(stream: io.StringIO) -> None:
    """A traceback is a field."""
    try:
        raise ValueError("a defect")
    except ValueError:
        logging.getLogger("gateway").exception("failed")
    [line] = checked(stream)
    assert "a defect" in line["exc_info"]


def test_others_are_refused() -> None:
    """It can say no: a missing field, a new one in an access line, a wrong type."""
    base = {"time": "2026-11-25T04:16:13+0000", "level": "INFO", "source": "gateway", "message": "hello"}
    validator = Draft202012Validator(SCHEMA)
    assert validator.is_valid(base)
    assert not validator.is_valid(base | {"time": "04:16:13"})
    assert not validator.is_valid(base | {"level": "info"})
    assert not validator.is_valid(base | {"source": "gateway.access"})
    assert not validator.is_valid(base | {"source": "engine", "prompt": "a secret"})
    assert not validator.is_valid(base | {"next_phase": "ready", "phase": "lunch", "seconds": 1})
