"""The access log: one line a request in both formats, all fields, and no way to forge either."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from vllm_engine.gateway.observe.access_log import PROBES, log_access
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord, shown
from vllm_engine.system.log import configure_logging


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Leave the root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def ended(path: str = "/v1/chat/completions", **values: Any) -> RequestRecord:
    """Return a request that took 1.234 s."""
    return RequestRecord("abc", "POST", path, received=100.0, ended=101.234, status=200, **values)


def logged(
    record: RequestRecord, format: Literal["console", "json"], level: str = "info", **more: Any
) -> str:
    """Return what is written for a request."""
    out = io.StringIO()
    configure_logging(level, format, stream=out)
    log_access(record, **more)
    return out.getvalue()


def test_console() -> None:
    """People get one short line."""
    line = logged(ended(), "console")
    assert line.endswith("INFO    gateway.access: POST /v1/chat/completions 200 complete 1.234 s\n")


def test_json() -> None:
    """Machines get every field, and nothing else."""
    record = ended(
        route="/v1/chat/completions",
        key="team-a",
        queue_seconds=0.25,
        first_byte=100.5,
        bytes_in=10,
        bytes_out=20,
        is_stream=True,
        prompt_tokens=3,
        completion_tokens=4,
        is_estimate=True,
    )
    fields = json.loads(logged(record, "json", model="a/model"))
    assert fields.pop("time")
    assert fields == {
        "level": "INFO",
        "source": "gateway.access",
        "message": "POST /v1/chat/completions 200 complete 1.234 s",
        "request_id": "abc",
        "method": "POST",
        "route": "/v1/chat/completions",
        "path": "/v1/chat/completions",
        "status": 200,
        "key": "team-a",
        "model": "a/model",
        "queue_seconds": 0.25,
        "ttft_seconds": 0.5,
        "duration_seconds": 1.234,
        "bytes_in": 10,
        "bytes_out": 20,
        "prompt_tokens": 3,
        "is_prompt_estimate": False,
        "completion_tokens": 4,
        "is_estimate": True,
        "outcome": "complete",
        "reason": None,
        "stream": True,
    }


def test_a_client_that_left_before_a_status() -> None:
    """No status is no number."""
    record = ended(outcome=Outcome.CLIENT_GONE)
    record.status = 0
    assert "POST /v1/chat/completions - client_gone 1.234 s" in logged(record, "console")
    assert json.loads(logged(record, "json"))["status"] is None


@pytest.mark.parametrize("format", ["console", "json"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/x\n12:00:00 INFO    gateway.access: POST /v1/y 200 complete 0.1 s",
        "/v1/x\r\x1b[2Jy",
        "/v1/\u2028\u0085\u202e",
        "/v1/\ud800",
        "/v1/" + "long/" * 1000,
        "",
    ],
)
def test_a_path_cannot_break_the_line(format: Literal["console", "json"], path: str) -> None:
    """Whatever a path holds, the line is one line of printable ASCII, and not long."""
    text = logged(ended(path), format)
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert text.isascii()
    assert len(text) < 1700
    assert " /v1/y " not in text


def test_paths_are_shown_as_they_are_sent() -> None:
    """Plain paths stay as they are, others are percent-encoded, and queries are left out."""
    assert shown("/v1/responses/resp_1-a.b:c~/cancel") == "/v1/responses/resp_1-a.b:c~/cancel"
    assert shown("/v1/ü 1%") == "/v1/%C3%BC%201%25"
    assert shown("/v1/models?key=secret") == "/v1/models"


@pytest.mark.parametrize("path", sorted(PROBES))
def test_probes_are_only_for_debugging(path: str) -> None:
    """Probes are not logged, unless at DEBUG."""
    assert logged(ended(path), "json") == ""
    assert json.loads(logged(ended(path), "json", "debug"))["level"] == "DEBUG"
