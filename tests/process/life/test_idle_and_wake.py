"""An engine that nobody needs is stopped, and the next request starts it and gets its answer."""

from __future__ import annotations

import signal

from tests.process.conftest import StartProgram
from tests.support.model import CHAT, STREAM
from tests.support.program import Program, until, until_gone

KEY = "a-key-of-ours"
SETTINGS = {
    "IDLE_STOP_SECONDS": "1",
    "CANARY_INTERVAL_SECONDS": "0.2",
    "KEEP_ALIVE_SECONDS": "0.2",
    "API_KEYS": KEY,
}


def until_idle(program: Program) -> None:
    until(lambda: (program.health() or {}).get("status") == "idle", "the engine's stop")
    until(lambda: len(program.processes()) == 1, "the end of the engine's processes")


def test_idle_stop_and_wake(start: StartProgram) -> None:
    """Probes, scrapes, listings and strangers do not wake it; a stream does, and has comments until it is answered."""
    program = start({"tokens": 4}, **SETTINGS)
    client, key = program.client, {"Authorization": f"Bearer {KEY}"}
    listed = client.get("/v1/models", headers=key)
    everybody = program.processes()[1:]
    until_idle(program)
    until_gone(everybody)
    assert program.metric("gateway_idle_stops_total") == 1
    assert program.metric("gateway_engine_up") == 0
    for _ in range(20):  # as machines do, for longer than an idle engine is kept
        assert client.get("/healthz").json()["state"] == "idle"
        assert client.get("/livez").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 401
        models = client.get("/v1/models", headers=key)
        assert (models.status_code, models.json().keys()) == (200, listed.json().keys())
        assert client.get("/ui/state").json()["health"]["status"] == "idle"
    assert len(program.processes()) == 1
    program.change(startup_seconds=2.0)
    with client.stream("POST", "/v1/chat/completions", json=STREAM, headers=key) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": keep-alive"
        assert (program.health() or {})["status"] == "waking"
        assert client.get("/healthz").status_code == 200
        rest = [line for line in lines if line]
    assert (answer.status_code, rest[-1]) == (200, "data: [DONE]")
    assert sum(line.startswith("data: {") for line in rest) >= 4
    assert [
        program.metric(f"gateway_{name}") for name in ("wake_seconds_count", "engine_restarts_total")
    ] == [1, 0]
    program.change(startup_seconds=0.0)
    until_idle(program)
    answer = client.post("/v1/chat/completions", json=CHAT, headers=key)
    assert (answer.status_code, len(program.starts())) == (200, 3)
    assert program.engines_lost() == 0
    until_idle(program)
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    assert " ERROR " not in program.log()


def test_an_engine_that_does_not_wake(start: StartProgram) -> None:
    """It fails as any start does: with a diagnosis, an error event for the stream that waited, and status 3."""
    program = start(IDLE_STOP_SECONDS="0.5", KEEP_ALIVE_SECONDS="0.2", MAX_RESTARTS="0")
    until_idle(program)
    program.change(startup_seconds=1.0, die_at_start=1, last_lines=["ValueError: no such thing"])
    with program.client.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert (answer.status_code, lines[0]) == (200, ": keep-alive")
    assert ['"error"' in line for line in lines if line.startswith("data:")] == [True]
    assert program.wait() == 3
    assert "no such thing" in program.log().splitlines()[-1]
