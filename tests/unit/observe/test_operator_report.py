"""The operator's report: failures and their diagnoses, work by status and key, the machine; bounded, and never in the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest

from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.errors import Diagnosis
from vllm_engine.gateway.local.operator_report import Load, Machine, Reporter, SettingRow
from vllm_engine.gateway.observe import blocking_read
from vllm_engine.gateway.observe.gateway_metrics import GatewayMetrics
from vllm_engine.gateway.observe.observation import Observation
from vllm_engine.gateway.observe.recent_failures import KEPT, RecentFailures
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.observe.work_totals import MAX_KEYS
from vllm_engine.system.device import GpuLoad
from vllm_engine.system.process_memory import own_rss_bytes, session_rss_bytes

CHAT = "/v1/chat/completions"
GPU = GpuLoad(0, "H100", 60, 80, 0.5, None, 300.5)


def reporter(folder: Path, keys: Container[str] = (), **machine: Any) -> tuple[Reporter, Observation]:
    """Return the reporter of a gateway with these keys, and what observes its requests."""
    settings, board = Settings(CACHE_DIR=str(folder)), StatusBoard()

    async def nothing() -> None:
        return None

    observation = Observation(settings, GatewayMetrics([CHAT], keys, {"version": "1"}), nothing)
    made = Reporter(settings, board, observation, Machine(**machine), Load(lambda: 3, lambda: 2))
    return made, observation


def ended(route: str = CHAT, **values: Any) -> RequestRecord:
    return RequestRecord("abc", "POST", route, route=route, **({"status": 200} | values))


def test_failures_are_bounded() -> None:
    """The newest are kept, newest first; a state that goes on is no second failure; words have an end."""
    board = StatusBoard()
    failures = RecentFailures(board)
    for number in range(KEPT + 5):
        board.move(EngineState.BACKOFF, error=Diagnosis(f"code-{number}", "x" * 100_000, "y" * 100_000))
        board.standing_by(None)
        board.restart()
    board.move(EngineState.FAILED, error=Diagnosis("last", "it failed", "do that"))
    kept = failures.kept
    assert len(kept) == KEPT
    assert [(one.code, one.start, one.is_final) for one in kept[:2]] == [
        ("last", KEPT + 6, True),
        (f"code-{KEPT + 4}", KEPT + 5, False),
    ]
    assert (kept[0].message, kept[0].remedy) == ("it failed", "do that")
    assert len(kept[1].message) == len(kept[1].remedy) == 2000
    assert kept[0].time >= kept[1].time


async def test_work_by_status_and_key(tmp_path: Path) -> None:
    """Requests by status, the API's apart from all other paths; refusals by reason; the busiest keys, never all of them."""
    names = {f"team-{number:03}" for number in range(MAX_KEYS + 7)}
    made, observation = reporter(tmp_path, names)
    for name in names:
        observation.finished(ended(key=name))
    for record in (
        ended(key="team-003", prompt_tokens=5, completion_tokens=7),
        ended(key="team-003", prompt_tokens=1, is_prompt_estimate=True),
        ended(key="team-003", status=429, reason="saturated", outcome=Outcome.REJECTED),
        ended("/livez", key="team-003"),
        ended("/nowhere", status=404, reason="unknown_route", outcome=Outcome.REJECTED),
        ended("/nowhere", status=404, reason="unknown_route", outcome=Outcome.REJECTED),
        ended(status=0, outcome=Outcome.CLIENT_GONE),
    ):
        observation.finished(record)
    totals = (await made.report()).totals
    assert [tuple(one.model_dump().values()) for one in totals.requests] == [
        ("200", "complete", len(names) + 2, 1),
        ("404", "rejected", 0, 2),
        ("429", "rejected", 1, 0),
        ("none", "client_gone", 1, 0),
    ]
    assert [(one.reason, one.count) for one in totals.rejections] == [("unknown_route", 2), ("saturated", 1)]
    assert (len(totals.keys), totals.keys_left_out) == (MAX_KEYS, 7)
    assert tuple(totals.keys[0].model_dump().values()) == ("team-003", 4, 1, 6, 7)


async def test_the_machine(tmp_path: Path) -> None:
    """GPUs as the driver tells, main memory, disk, queue and settings; without GPUs there are none to show."""
    row = SettingRow(name="PORT", value="8000", source="default")
    made, _ = reporter(tmp_path, gpu_loads=lambda: (GPU,), settings=lambda: (row,))
    report = await made.report()
    assert report.gpus == [GPU] and report.model_dump()["gpus"][0]["power_watts"] == 300.5
    assert report.memory is not None and report.storage is not None
    assert 0 < report.memory.gateway_bytes < report.memory.total_bytes
    assert 0 < report.memory.available_bytes <= report.memory.total_bytes
    assert (report.memory.engine_bytes, report.storage.folder) == (None, str(tmp_path))
    assert (report.queue.in_flight, report.queue.waiting, report.settings) == (3, 2, [row])
    assert (await reporter(tmp_path)[0].report()).gpus is None
    assert session_rss_bytes(-1) == 0 < own_rss_bytes()


async def test_a_driver_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked by one thread at a time, and everybody else goes on; what it says later is shown."""
    monkeypatch.setattr(blocking_read, "SECONDS", 0.01)
    monkeypatch.setattr("vllm_engine.gateway.local.operator_report.DEVICE_SECONDS", 0.0)
    may_answer, asked = threading.Event(), [0]

    def hang() -> tuple[GpuLoad, ...]:
        asked[0] += 1
        may_answer.wait(20)
        return (GPU,)

    made, _ = reporter(tmp_path, gpu_loads=hang)
    reports = await asyncio.gather(*(made.report() for _ in range(20)))
    assert ([one.gpus for one in reports], asked[0]) == ([[]] * 20, 1)
    may_answer.set()
    monkeypatch.setattr(blocking_read, "SECONDS", 20)
    assert (await made.report()).gpus


async def test_a_defect_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody expects leaves no answer, is told, and the next one who asks gets one."""
    answers = [ValueError("broken"), None]
    told = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: told.set())

    def ask() -> str:
        if error := answers.pop(0):
            raise error
        return "fine"

    read = blocking_read.BlockingRead("test", ask)
    assert await read.get() is None
    assert await asyncio.to_thread(told.wait, 20)
    assert await read.get() == "fine"
