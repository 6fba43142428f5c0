"""The real vLLM stopped while nobody needs it: its memory is free, and the next request has its answer from it."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import MODEL, START_SECONDS, ready
from tests.support.program import Program, until, until_gone

pytestmark = pytest.mark.e2e

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}


def memory_bytes(program: Program) -> int:
    """Return the memory of all its processes; a page that several share counts once."""
    total = 0
    for process in program.processes():
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def engine_processes(program: Program) -> list[psutil.Process]:
    """Return the engine's processes, without a standby that may be on its way."""
    children = psutil.Process(program.pid).children()
    leaders = [child for child in children if "--standby" not in child.cmdline()]
    return [process for leader in leaders for process in (leader, *leader.children(recursive=True))]


def test_stopped_and_woken(engine_python: Path, tmp_path: Path) -> None:
    """With the frontends that it had; the standby, made after the stop, becomes the engine while a stream waits."""
    settings = {"STANDBY": "1", "IDLE_STOP_SECONDS": "1", "KEEP_ALIVE_SECONDS": "0.5"}
    with ready(tmp_path, **settings) as program:
        story = CHAT | {"stream": True, "max_tokens": 1000, "ignore_eos": True}
        with program.client.stream("POST", "/v1/chat/completions", json=story) as answer:
            next(answer.iter_lines())  # from here on it is not idle
            served, engine = memory_bytes(program), engine_processes(program)
        frontend = program.client.get("/version").json()["frontend"]
        models = program.client.get("/v1/models").json()["data"]
        until(lambda: (program.health() or {})["status"] == "idle", "the stop", START_SECONDS)
        until_gone(engine)
        until(lambda: program.metric("gateway_standby_ready") == 1, "a standby", START_SECONDS)
        assert memory_bytes(program) < served / 2
        wakes = program.metric("gateway_wake_seconds_count")
        listed = program.client.get("/v1/models").json()["data"]
        assert [model["id"] for model in listed] == [model["id"] for model in models]
        with program.client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert (answer.status_code, lines[0], lines[-1]) == (200, ": keep-alive", "data: [DONE]")
        program.until_logged("from the standby")
        assert program.client.get("/version").json()["frontend"] == frontend
        assert program.client.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert program.metric("gateway_wake_seconds_count") > wakes
        assert program.engines_lost() == 0
        everybody = program.processes()
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        until_gone(everybody)
