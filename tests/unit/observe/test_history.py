"""The plots' history: what is read from vLLM's metrics, what a point says of the time before it, and its bounds."""

from __future__ import annotations

from unittest.mock import AsyncMock

import pytest

from vllm_engine.engine.activity import OneTokenChecks
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.gateway.local.metric_history import Recorder
from vllm_engine.gateway.local.metric_reading import Latency, Reading, point, read_metrics

TEXT = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prompt_tokens_total{engine="0",model_name="m"} 100.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 40.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.1",model_name="m"} 3.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="1.0",model_name="m"} 4.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="m"} 4.0
vllm:time_to_first_token_seconds_count{engine="0",model_name="m"} 4.0
vllm:time_to_first_token_seconds_sum{engine="0",model_name="m"} 0.8
vllm:time_to_first_token_seconds_created{engine="0",model_name="m"} 1.7e+09
vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 36.0
vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 1.8
"""


@pytest.fixture
def board() -> StatusBoard:
    """The status of a ready engine."""
    ready = StatusBoard()
    ready.move(EngineState.READY)
    return ready


def test_reading() -> None:
    """Engines are added up, the fullest cache counts, and names that only begin alike are others."""
    reading = read_metrics(TEXT, 10.0)
    assert (reading.running, reading.waiting, reading.kv_cache) == (5, 1, 0.5)
    assert (reading.prompt, reading.generated, reading.ttft.count) == (100, 40, 4)
    assert (reading.ttft.mean, reading.itl.mean) == pytest.approx((0.2, 0.05))
    assert reading.ttft.buckets == {0.1: 3, 1.0: 4, float("inf"): 4}


def test_point_is_of_the_time_between() -> None:
    """Rates and latencies are of what came since the point before; waiting counts the gateway's queue."""
    before = Reading(10.0, prompt=100, generated=40, ttft=Latency(1.0, 2, {0.1: 1, 1.0: 2}))
    now = Reading(15.0, 2, 3, 0.5, 200, 140, Latency(2.0, 4, {0.1: 1, 1.0: 4}), Latency())
    found = point(now, before, 4)
    assert (found.running, found.waiting, found.kv_cache) == (2, 7, 0.5)
    assert (found.generated_per_second, found.prompt_per_second) == (20, 20)
    assert found.ttft_mean == 0.5
    assert found.ttft_p95 == pytest.approx(0.1 + 0.9 * 0.95)
    assert (found.itl_mean, found.itl_p95) == (None, None)
    restarted = point(Reading(20.0, generated=5), now, 0)  # counters that begin anew give no negative rate
    assert (restarted.generated_per_second, restarted.running) == (None, 0)
    # Linear within a bucket; beyond the last bound it is that bound; without observations nothing.
    latency = Latency(3.0, 4, {0.1: 2, 1.0: 3, float("inf"): 4})
    for share, expected in ((0.0, 0.0), (0.25, 0.05), (0.5, 0.1), (0.75, 1.0), (0.99, 1.0), (1.0, 1.0)):
        assert latency.quantile(share) == pytest.approx(expected)
    assert Latency().quantile(0.5) is None


async def test_own_questions_are_no_work(board: StatusBoard) -> None:
    """An idle engine looks idle, whether it has counted our question before the reading or counts it later."""
    counted = dict.fromkeys(("prompt_tokens_total", "generation_tokens_total", "num_requests_running"), 0)
    counted |= {"time_to_first_token_seconds_count": 4, "time_to_first_token_seconds_sum": 4}

    async def metrics() -> bytes | None:
        return "\n".join(f"vllm:{name} {value}" for name, value in counted.items()).encode()

    def work(prompt: int) -> None:
        for name in counted:
            counted[name] += prompt if "prompt" in name else "running" not in name

    questions = OneTokenChecks()
    recorder = Recorder(board, metrics, lambda: 0, questions)
    for running in (0, None, 1):  # seen while it runs, not seen, and seen as running
        questions.begin()
        if running is not None:
            counted["num_requests_running"] = running
            await recorder.look()
        work(2)
        questions.end(2)
        counted["num_requests_running"] = 0
        await recorder.look()
    kept = recorder.history()
    assert (kept.running, kept.ttft_mean) == ([0] * 5, [None] * 5)
    assert kept.generated_per_second == kept.prompt_per_second == [None, 0, 0, 0, 0]
    work(50)  # a client's
    await recorder.look()
    kept = recorder.history()
    generated = kept.generated_per_second[-1] or 0
    assert (kept.ttft_mean[-1], generated > 0) == (1, True)
    assert kept.prompt_per_second[-1] == pytest.approx(50 * generated, 0.01)


async def test_gaps() -> None:
    """An engine that is not ready is not asked; that, and metrics that cannot be had or read, are gaps."""
    board, text = StatusBoard(), TEXT.encode()
    metrics = AsyncMock(side_effect=[None, text, text, b'vllm:num_requests_running{x="1" oops'])
    recorder = Recorder(board, metrics, lambda: 0, OneTokenChecks())
    await recorder.look()
    metrics.assert_not_called()
    board.move(EngineState.READY)
    for _ in range(4):
        await recorder.look()
    kept = recorder.history()
    assert kept.running == [None, None, 5, 5]
    assert kept.generated_per_second == [None, None, None, 0]


async def test_bounded(board: StatusBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is kept than fits the window, however long it runs."""
    metrics = AsyncMock(return_value=TEXT.encode())
    recorder = Recorder(board, metrics, lambda: 0, OneTokenChecks(), interval_seconds=90)
    for _ in range(25):
        await recorder.look()
    assert len(recorder.history().running) == 10
    monkeypatch.setattr("time.monotonic", lambda: 1e9)
    assert recorder.history().running == []
