"""The tables and verdict of perf/idle_cycles.py, from rows like those that it keeps."""

from __future__ import annotations

from typing import Any

from perf.idle_cycles import COLD, READY, STANDING_BY, STOPPING, faults, markdown

GOOD: dict[str, Any] = {"what": "request", "after": None, "comments": 0, "fault": ""}
ROWS: list[dict[str, Any]] = [
    {"what": "machine", "machine": "a machine", "idle": 20.0, "frontend": "both"},
    {"what": "memory", "when": "ready, no standby yet", "bytes": 3_000_000_000},
    {"what": "memory", "when": "idle, with a standby", "bytes": 600_000_000},
    GOOD | {"engine": READY, "seconds": 0.1},
    GOOD | {"engine": STANDING_BY, "seconds": 5.0},
    GOOD | {"engine": STANDING_BY, "seconds": 7.0},
    GOOD | {"engine": COLD, "seconds": 15.0},
    {"what": "stop", "seconds": 1.5},
    *({"what": "count", "name": f"gateway_{name}", "value": value} for name, value in (
        ("idle_stops_total", 2.0), ("wake_seconds_count", 2.0), ("engine_restarts_total", 0.0), ("engine_failures_total", 0.0),
    )),
]  # fmt: skip


def test_tables() -> None:
    """A row for each thing that was there, and none for what was not."""
    text = markdown(ROWS)
    assert (
        "4 requests, 0 lost; 2 stops, 2 starts, 0 restarts; IDLE_STOP_SECONDS=20, ENGINE_FRONTEND=both."
        in text
    )
    assert "| to a token, engine stopped, standby | 2 | 6.00 | 5.00 | 7.00 |" in text
    assert "| to stop the engine | 1 | 1.50 | 1.50 | 1.50 |" in text
    assert "| idle, with a standby | 1 | 600 |" in text
    assert STOPPING not in text


def test_verdict() -> None:
    """A request without its whole answer, or an engine that was lost, is a fault."""
    assert faults(ROWS) == []
    lost = GOOD | {"engine": STOPPING, "seconds": None, "fault": "503, ends with ''"}
    restart = {"what": "count", "name": "gateway_engine_restarts_total", "value": 1.0}
    assert faults([*ROWS, lost, restart]) == [
        "a request was lost: 503, ends with ''", "gateway_engine_restarts_total is 1"
    ]  # fmt: skip
    assert "5 requests, 1 lost" in markdown([*ROWS, lost])
