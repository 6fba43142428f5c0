"""Metrics: vLLM's text unchanged, ours valid behind it, and no label that a client can grow."""

from __future__ import annotations

import asyncio
import math
import shutil
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vllm_engine.diagnosis.catalogue import CATALOGUE
from vllm_engine.engine.engine_state import EngineState, Frontend, Phase, StatusBoard
from vllm_engine.errors import Diagnosis
from vllm_engine.gateway.observe.disk_usage import Disk
from vllm_engine.gateway.observe.gateway_metrics import CONTENT_TYPE, HUNG, GatewayMetrics
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.observe.shared_answer import Shared

CHAT = "/v1/chat/completions"
BUILD = {"version": "1.2.3", "sha": "dev", "vllm": "0.32.0"}


@pytest.fixture
def metrics() -> GatewayMetrics:
    return GatewayMetrics([CHAT], {"team-a"}, BUILD)


def ended(**values: Any) -> RequestRecord:
    usual: dict[str, Any] = {"route": CHAT, "status": 200, "received": 100.0, "ended": 102.0}
    return RequestRecord("abc", "POST", CHAT, **(usual | values))


def parsed(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return a text's samples; each name and each series is there once."""
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    samples = [one for family in families for one in family.samples]
    values = {(one.name, frozenset(one.labels.items())): one.value for one in samples}
    assert len(values) == len(samples)
    return values


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    return parsed(metrics.render(None)).get((f"gateway_{name}", frozenset(labels.items())))


def test_the_engines_text_comes_first_unchanged(metrics: GatewayMetrics) -> None:
    """Both parse as one; a missing line end is added and OpenMetrics' end mark removed."""
    text = b'# HELP vllm:a # EOF\n# TYPE vllm:a gauge\nvllm:a{x="1"} 1'
    for end in (b"", b"\n", b"\n# EOF", b"\n# EOF\n", b"\n\n# EOF\n\n"):
        both = metrics.render(text + end)
        assert both.startswith(text + b"\n") and both.endswith(b"\n") and b"\n# EOF" not in both
        samples = parsed(both)
        assert samples.pop(("vllm:a", frozenset({("x", "1")}))) == 1
        assert samples["gateway_engine_up", frozenset()] == 1
        assert all(name.startswith("gateway_") and not name.endswith("_created") for name, _ in samples)
    assert metrics.render(b"# EOF\n").startswith(b"# HELP gateway_")
    assert value(metrics, "engine_up") == 0
    assert parsed(metrics.render(b""))["gateway_engine_up", frozenset()] == 1
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("record", "samples"),
    [
        (
            {"key": "team-a", "queue_seconds": 0.25, "first_byte": 100.7, "bytes_in": 10, "bytes_out": 20,
             "is_stream": True, "prompt_tokens": 3, "completion_tokens": 4, "replays": 2,
             "frontend": Frontend.PYTHON, "python_reason": "bad_words"},
            {f'requests_total{{route="{CHAT}",status="200",outcome="complete"}}': 1, "queue_seconds_sum": 0.25,
             f'ttft_seconds_bucket{{route="{CHAT}",le="0.5"}}': 0, f'ttft_seconds_sum{{route="{CHAT}"}}': 0.7,
             f'ttft_seconds_bucket{{route="{CHAT}",le="0.75"}}': 1, 'bytes_total{direction="in"}': 10,
             f'request_duration_seconds_sum{{route="{CHAT}"}}': 2, 'bytes_total{direction="out"}': 20,
             'tokens_total{key="team-a",kind="prompt"}': 3, 'tokens_total{key="team-a",kind="completion"}': 4,
             "replays_total": 2, "disconnects_total": 0, 'frontend_requests_total{frontend="python"}': 1,
             'frontend_requests_total{frontend="rust"}': 0, 'python_frontend_requests_total{reason="bad_words"}': 1},
        ),
        (  # not streamed: the first byte is no first token; what was estimated is apart
            {"first_byte": 101.9, "completion_tokens": 4, "is_estimate": True, "prompt_tokens": 5,
             "is_prompt_estimate": True},
            {'tokens_total{key="",kind="completion_estimate"}': 4, 'tokens_total{key="",kind="completion"}': None,
             'tokens_total{key="",kind="prompt_estimate"}': 5, f'ttft_seconds_count{{route="{CHAT}"}}': 0,
             f'request_duration_seconds_count{{route="{CHAT}"}}': 1, "queue_seconds_count": 0},
        ),
        (
            {"status": 429, "outcome": Outcome.REJECTED, "reason": "queue_timeout", "queue_seconds": 30.0},
            {'rejections_total{reason="queue_timeout"}': 1, "queue_seconds_sum": 30, "queue_seconds_count": 1,
             f'requests_total{{route="{CHAT}",status="429",outcome="rejected"}}': 1,
             f'request_duration_seconds_count{{route="{CHAT}"}}': None},
        ),
        (
            {"status": 0, "outcome": Outcome.CLIENT_GONE, "queue_seconds": 0.0},
            {"disconnects_total": 1, "queue_seconds_count": 1,
             f'requests_total{{route="{CHAT}",status="none",outcome="client_gone"}}': 1},
        ),
    ],
)  # fmt: skip
def test_a_request(metrics: GatewayMetrics, record: dict[str, Any], samples: dict[str, float | None]) -> None:
    metrics.observe(ended(**record))
    found = parsed(metrics.render(None))
    for sample, expected in samples.items():
        [series] = parsed(f"gateway_{sample} 0\n".encode())
        assert found.get(series) == (expected if expected is None else pytest.approx(expected)), sample


def test_labels_are_bounded() -> None:
    """No route, key, reason or status that a client invents makes a series, or is kept; keys may be added."""
    names = {"old"}
    metrics = GatewayMetrics([CHAT], names, BUILD)
    for number in range(300):
        made_up = f"/x{number}"
        rejected = {"status": number * 7, "outcome": Outcome.REJECTED, "reason": made_up}
        metrics.observe(ended(route=made_up, python_reason=f"field {number}"))
        metrics.observe(ended(route=made_up, **rejected))
        metrics.observe(ended(route=made_up, key=made_up, prompt_tokens=1))
    samples = parsed(metrics.render(None))
    seen = {name: {dict(labels).get(name) for _, labels in samples} for name in ("route", "key", "reason")}
    assert (seen["route"], seen["key"]) == ({None, "unmatched"}, {None, "other"})
    assert len(seen["reason"]) == 1 + 32 + 64 + 1
    assert value(metrics, "python_frontend_requests_total", reason="other") == 300 - 64
    assert value(metrics, "rejections_total", reason="other") == 300 - 32
    assert (len(metrics._tokens_of), len(metrics._times_of)) == (0, 1)
    names.add("new")
    metrics.observe(ended(key="new", prompt_tokens=2))
    assert value(metrics, "tokens_total", key="new", kind="prompt") == 2


def test_the_engines_life(metrics: GatewayMetrics) -> None:
    """Restarts and failures are counted once each, a hang from 0; a drain is neither; gauges are read when asked for."""
    board = StatusBoard()
    metrics.follow(board)
    metrics.watch(in_flight=lambda: 3, waiting=lambda: 2, log_lines_dropped=lambda: 4)
    assert (value(metrics, "in_flight"), value(metrics, "waiting")) == (3, 2)
    assert [value(metrics, "log_lines_dropped_total") for _ in range(2)] == [4, 4]
    assert (value(metrics, "engine_restarts_total"), value(metrics, "engine_start_seconds")) == (0, 0)
    assert value(metrics, "build_info", **BUILD) == 1
    assert HUNG in {entry.code for entry in CATALOGUE}
    assert value(metrics, "engine_failures_total", code=HUNG) == 0
    board.progress(Phase.READY)
    board.move(EngineState.READY)
    assert (value(metrics, "engine_start_seconds") or 0) > 0
    for code in (HUNG, HUNG, "engine-crashed"):
        board.move(EngineState.UNHEALTHY)
        board.move(EngineState.BACKOFF, error=Diagnosis(code, "it was lost"))
        board.restart()
        board.progress(Phase.IMPORTING, 0.5)
        board.move(EngineState.READY)
    board.move(EngineState.DRAINING)
    board.move(EngineState.STOPPED)
    values = {state: value(metrics, "engine_state", state=state.value) for state in EngineState}
    assert values == {state: float(state is EngineState.STOPPED) for state in EngineState}
    assert value(metrics, "engine_restarts_total") == 3
    for code, count in ((HUNG, 2), ("engine-crashed", 1)):
        assert value(metrics, "engine_failures_total", code=code) == count
    metrics.follow(failed := StatusBoard())
    failed.move(EngineState.FAILED, error=Diagnosis("gated-model", "it is gated"))
    assert value(metrics, "engine_failures_total", code="gated-model") == 1
    assert value(metrics, "engine_state", state="failed") == 1


def test_an_idle_engine(metrics: GatewayMetrics) -> None:
    """Its stops are counted and its starts timed, and are no restarts; one that fails is, once it is tried again."""
    board = StatusBoard()
    metrics.follow(board)
    board.move(EngineState.READY)
    for _ in range(2):
        board.rest()
        assert value(metrics, "engine_state", state="idle") == 1
        board.restart()
        board.move(EngineState.READY)
    board.rest()
    board.restart()
    board.move(EngineState.BACKOFF)
    board.restart()
    board.move(EngineState.READY)
    counts = [
        value(metrics, name) for name in ("idle_stops_total", "wake_seconds_count", "engine_restarts_total")
    ]
    assert counts == [3, 2, 1]


async def test_the_caches_disk(metrics: GatewayMetrics, tmp_path: Path) -> None:
    """Free space and size of the folder's file system; of what does not answer neither is told as 0."""
    space = await Disk(tmp_path).space()
    assert space is not None and 0 < space.free <= space.size == shutil.disk_usage(tmp_path).total
    samples = parsed(metrics.render(None, space))
    assert samples["gateway_cache_free_bytes", frozenset()] == space.free
    assert samples["gateway_cache_size_bytes", frozenset()] == space.size
    assert math.isnan(value(metrics, "cache_free_bytes") or 0)
    assert await Disk(tmp_path / "nothing").space() is None
    disk = Disk(tmp_path)
    with patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        assert await disk.space() is None
    assert await disk.space() is not None


async def test_a_dead_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file system that does not answer blocks nobody, is asked once at a time, and may come back."""
    answer, usage = threading.Event(), shutil.disk_usage(tmp_path)
    blocked = Mock(side_effect=lambda _: answer.wait(20) and usage)
    monkeypatch.setattr("vllm_engine.gateway.observe.blocking_read.SECONDS", 0.01)
    monkeypatch.setattr("vllm_engine.gateway.observe.disk_usage.shutil.disk_usage", blocked)
    disk = Disk(tmp_path)
    assert [await disk.space() for _ in range(3)] == [None] * 3
    blocked.assert_called_once()
    answer.set()
    monkeypatch.setattr("vllm_engine.gateway.observe.blocking_read.SECONDS", 20)
    space = await disk.space()
    assert space is not None and space.size == usage.total


async def test_one_answer_for_all_who_ask() -> None:
    """All who ask while it is made, and until it is stale, get the same object; one that leaves stops nobody."""
    made, now, may_end = [0], [0.0], asyncio.Event()

    async def make() -> list[int]:
        made[0] += 1
        await may_end.wait()
        return list(made)

    shared = Shared(make, 1.0, lambda: now[0])
    first, *others = [asyncio.create_task(shared.get()) for _ in range(1000)]
    await asyncio.sleep(0)
    first.cancel()
    now[0] = 5.0
    may_end.set()
    answer, *same = await asyncio.gather(*others)
    assert answer == [1] and all(one is answer for one in same)
    now[0] = 5.9
    assert await shared.get() is answer
    now[0] = 6.0
    assert await shared.get() == [2]
    kept_for_nobody = Shared(make, 0.0)
    assert [await kept_for_nobody.get() for _ in range(2)] == [[3], [4]]
