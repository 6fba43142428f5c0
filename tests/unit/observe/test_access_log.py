"""The log: one line a request in both formats, no way to forge one, and every line as its schema says."""

from __future__ import annotations

import io
import json
import logging
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonschema import Draft202012Validator

from vllm_engine.engine.engine_state import EngineState, Frontend, Phase, StatusBoard
from vllm_engine.engine.startup.start_history import StartHistory, StartRecorder
from vllm_engine.gateway.observe.access_log import PROBES, log_access
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord, shown
from vllm_engine.models.download_progress import Download
from vllm_engine.system.log import configure_logging

FILE = Path(__file__).parents[3] / "deploy/observability/log.schema.json"
SCHEMA = Draft202012Validator(json.loads(FILE.read_text()))
Format = Literal["console", "json"]
pytestmark = pytest.mark.usefixtures("restored_logging")


def ended(path: str = "/v1/chat/completions", status: int = 200, **values: Any) -> RequestRecord:
    return RequestRecord("abc", "POST", path, received=100.0, ended=101.234, status=status, **values)


def logged(record: RequestRecord, format: Format, level: str = "info", **more: Any) -> str:
    with redirect_stderr(io.StringIO()) as out:
        configure_logging(level, format)
        log_access(record, **more)
    return out.getvalue()


def test_a_request() -> None:
    """People get one short line, machines every field and nothing else; no status is no number."""
    line = logged(ended(), "console")
    assert line.endswith("INFO    gateway.access: POST /v1/chat/completions 200 complete 1.234 s\n")
    values: dict[str, Any] = {
        "route": "/v1/chat/completions", "key": "team-a", "queue_seconds": 0.25, "bytes_in": 10, "bytes_out": 20,
        "prompt_tokens": 3, "completion_tokens": 4, "is_estimate": True, "is_prompt_estimate": False,
    }  # fmt: skip
    fields = json.loads(
        logged(
            ended(first_byte=100.5, is_stream=True, frontend=Frontend.RUST, **values), "json", model="a/model"
        )
    )
    assert fields.pop("time")
    assert fields == values | {
        "level": "INFO", "source": "gateway.access", "request_id": "abc", "method": "POST",
        "message": "POST /v1/chat/completions 200 complete 1.234 s", "path": "/v1/chat/completions",
        "status": 200, "model": "a/model", "ttft_seconds": 0.5, "duration_seconds": 1.234,
        "outcome": "complete", "reason": None, "stream": True, "frontend": "rust",
    }  # fmt: skip
    gone = ended(status=0, outcome=Outcome.CLIENT_GONE)
    assert "POST /v1/chat/completions - client_gone 1.234 s" in logged(gone, "console")
    assert json.loads(logged(gone, "json"))["status"] is None
    page = ("/", "/ui", "/ui/", "/ui/state", "/ui/chat/chat.js", "/docs", "/docs/", "/favicon.ico")
    minor = [ended(path) for path in (*PROBES, *page)]
    minor.append(ended(status=503, outcome=Outcome.REJECTED, reason="not_ready"))
    render = "/v1/chat/completions/render"
    minor += [ended(render, status=status, is_scale_out=True) for status in (200, 403)]
    for record in minor:
        assert logged(record, "json") == ""
        assert json.loads(logged(record, "json", "debug"))["level"] == "DEBUG"
    failed = ended(render, status=500, is_scale_out=True)
    for more in (ended("/uix"), failed, ended(status=503, outcome=Outcome.REJECTED, reason="draining")):
        assert json.loads(logged(more, "json"))["level"] == "INFO"


def test_a_path_cannot_break_the_line() -> None:
    """Whatever a path holds, the line is one line of printable ASCII, and not long."""
    for path in (
        "/v1/x\n12:00:00 INFO    gateway.access: POST /v1/y 200 complete 0.1 s", "/v1/x\r\x1b[2Jy", "",
        "/v1/\u2028\u0085\u202e", "/v1/\ud800", "/v1/" + "long/" * 1000,
    ):  # fmt: skip
        for text in (logged(ended(path), "console"), logged(ended(path), "json")):
            assert text.endswith("\n") and text[:-1].isprintable() and text.isascii() and len(text) < 1700
            assert " /v1/y " not in text
    for path, expected in (
        ("/v1/responses/resp_1-a.b:c~/cancel", "/v1/responses/resp_1-a.b:c~/cancel"),
        ("/v1/ü 1%", "/v1/%C3%BC%201%25"), ("/v1/models?key=secret", "/v1/models"),
    ):  # fmt: skip
        assert shown(path) == expected


def test_every_line_is_as_the_schema_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests of each outcome, a start with a download, a defect: nothing is missing or new."""
    Draft202012Validator.check_schema(SCHEMA.schema)
    configure_logging("debug", "json")
    log_access(RequestRecord("a", "GET", "/livez", received=1.0, ended=2.0))
    values: dict[str, Any] = {"key": "k", "first_byte": 100.5, "prompt_tokens": 1, "reason": "saturated"}
    for outcome in Outcome:
        log_access(ended(outcome=outcome, **values), "m")
    board = StatusBoard()
    StartRecorder(board, StartHistory(tmp_path / "starts.json")).begins("key")
    board.downloading(Download(1, 2, 2, 4))
    for phase in list(Phase)[3:]:
        board.progress(phase)
    board.move(EngineState.READY)
    try:
        raise ValueError("a defect")
    except ValueError:
        logging.getLogger("gateway").exception("failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for line in lines:
        SCHEMA.validate(line)
    assert [line["outcome"] for line in lines if "outcome" in line] == ["complete", *Outcome]
    assert [line["next_phase"] for line in lines if "next_phase" in line][-1] == "ready"
    assert [line["files_done"] for line in lines if "files_done" in line] == [1]
    assert "a defect" in lines[-1]["exc_info"]
    # It can say no: a missing field, a new one in an access line, a wrong type.
    base = {"time": "2026-11-25T04:16:13+0000", "level": "INFO", "source": "gateway", "message": "hello"}
    assert SCHEMA.is_valid(base)
    for wrong in (
        {"time": "04:16:13"}, {"level": "info"}, {"source": "gateway.access"},
        {"source": "engine", "prompt": "a secret"}, {"next_phase": "ready", "phase": "lunch", "seconds": 1},
    ):  # fmt: skip
        assert not SCHEMA.is_valid(base | wrong)
