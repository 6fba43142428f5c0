"""The real vLLM lost on purpose: noticed, started again, and no request without an answer fails."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.e2e.conftest import MODEL, START_SECONDS, ready
from tests.support.program import Program, until

pytestmark = pytest.mark.e2e

API_SERVERS = int(os.environ.get("TEST_API_SERVERS", "1"))
"""`make nightly` has two: each takes another half of a start on two cores."""
PROCESSES = 3 if API_SERVERS == 1 else 3 + API_SERVERS
"""Of a standby: the launcher, EngineCore and its worker; a single API server is the launcher itself."""

STORY = [{"role": "user", "content": "Tell me a long story about the sea."}]
LONG: dict[str, Any] = {"model": MODEL, "messages": STORY, "max_tokens": 400, "ignore_eos": True}


@pytest.fixture(scope="module")
def program(engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Our program with the real vLLM, which it may take for hung where a signal has stopped a process of it."""
    # Not where it is slow: on a busy machine it can be so for minutes while the standby is imported.
    hang = {"HANG_TIMEOUT_SECONDS": str(START_SECONDS), "CANARY_INTERVAL_SECONDS": "0"}
    with ready(
        tmp_path_factory.mktemp("restart"), **hang, STANDBY="1", API_SERVER_COUNT=str(API_SERVERS)
    ) as started:
        yield started


def engine_core(program: Program) -> psutil.Process:
    """Return vLLM's engine core."""
    (core,) = [process for process in program.processes() if process.name().startswith("VLLM::EngineCor")]
    return core


def test_core_killed(program: Program) -> None:
    """The loss shows; the whole answer comes from the standby, now the engine."""
    before = engine_core(program).ppid()
    until(lambda: f"a standby is ready: {PROCESSES} process(es)" in program.log(), "a standby", START_SECONDS)
    assert "vLLM is imported once more" not in program.log(), "its processes are forks of the first"
    answers: list[httpx2.Response] = []

    def ask() -> None:
        with httpx2.Client(base_url=program.url, timeout=START_SECONDS) as client:
            answers.append(client.post("/v1/chat/completions", json=LONG))

    asked = threading.Thread(target=ask)
    asked.start()
    until(lambda: program.metric("gateway_in_flight") == 1, "the request's arrival")
    with program.loses_engine():
        engine_core(program).kill()
    asked.join(START_SECONDS)
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json()["usage"]["completion_tokens"] == 400
    assert engine_core(program).ppid() != before
    assert not psutil.pid_exists(before)
    program.until_logged("from the standby")


def test_core_stopped_under_a_stream(program: Program) -> None:
    """A core that stands still, though vLLM says it is healthy, is found out; its stream says that it broke."""
    before = engine_core(program).ppid()
    with program.client.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        next(lines)
        engine_core(program).send_signal(signal.SIGSTOP)
        *_, last = lines
    assert "error" in json.loads(last.removeprefix("data: "))
    program.until_ready(START_SECONDS)
    assert engine_core(program).ppid() != before
    program.until_logged("[engine-hung]")
    answer = program.client.post("/v1/chat/completions", json=LONG | {"max_tokens": 4})
    assert answer.status_code == 200
