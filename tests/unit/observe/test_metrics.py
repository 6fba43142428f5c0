"""Metrics: vLLM's text unchanged, ours valid behind it, and no label that a client can grow."""

from __future__ import annotations

import math
import shutil
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fake.fake_scenarios import LiveScenario, Scenario, write_scenario
from tests.support.fake.fake_state import Engine, EngineCore, render_metrics
from vllm_engine.diagnosis.catalogue import CATALOGUE
from vllm_engine.engine.engine_state import EngineState, Phase, StatusBoard
from vllm_engine.errors import Diagnosis
from vllm_engine.gateway.observe.disk_usage import Disk
from vllm_engine.gateway.observe.gateway_metrics import CONTENT_TYPE, HUNG, GatewayMetrics
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord

CHAT = "/v1/chat/completions"
BUILD = {"version": "1.2.3", "sha": "dev", "vllm": "0.32.0"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics() -> GatewayMetrics:
    """Metrics of a gateway with one route and one key."""
    return GatewayMetrics([CHAT], {"team-a"}, BUILD)


def ended(**values: Any) -> RequestRecord:
    """Return a request that took 2 s."""
    usual: dict[str, Any] = {"route": CHAT, "status": 200, "received": 100.0, "ended": 102.0}
    return RequestRecord("abc", "POST", CHAT, **(usual | values))


def parsed(text: bytes) -> Samples:
    """Return a text's samples; each name and each series is there once."""
    families = list(text_string_to_metric_families(text.decode()))
    assert len({family.name for family in families}) == len(families)
    samples = [(one.name, frozenset(one.labels.items())) for family in families for one in family.samples]
    assert len(set(samples)) == len(samples)
    values = [one.value for family in families for one in family.samples]
    return dict(zip(samples, values, strict=True))


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    """Return one sample of the gateway's own."""
    return parsed(metrics.render(None)).get((f"gateway_{name}", frozenset(labels.items())))


def engine_text(tmp_path: Path) -> bytes:
    """Return what the fake engine says, with what every Python process adds."""
    live = LiveScenario(write_scenario(tmp_path / "scenario.json", Scenario()))
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Counter("python_gc_objects_collected", "Objects.", ["generation"], registry=registry).labels("0").inc()
    Histogram("vllm:e2e_request_latency_seconds", "E2EL.", registry=registry).observe(1)
    process = generate_latest(registry)
    assert b"process_resident_memory_bytes" in process
    return render_metrics(Engine(live, EngineCore(lambda: None)), "a/model").encode() + process


def test_the_engine_unchanged(metrics: GatewayMetrics, tmp_path: Path) -> None:
    """vLLM's text comes first, byte for byte; both parse as one, each series once."""
    theirs = engine_text(tmp_path)
    metrics.observe(ended())
    both = metrics.render(theirs)
    assert both.startswith(theirs)
    ours = both.removeprefix(theirs)
    assert all(
        line.removeprefix(b"# HELP ").removeprefix(b"# TYPE ").startswith(b"gateway_")
        for line in ours.splitlines()
    )
    samples = parsed(both)
    assert parsed(theirs).items() <= samples.items()
    assert samples["gateway_engine_up", frozenset()] == 1
    assert both.endswith(b"\n")
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_without_the_engine(metrics: GatewayMetrics) -> None:
    """Only ours, and that the engine is not there; an empty answer is an answer."""
    assert value(metrics, "engine_up") == 0
    assert all(name.startswith("gateway_") for name, _ in parsed(metrics.render(None)))
    assert parsed(metrics.render(b""))["gateway_engine_up", frozenset()] == 1


@pytest.mark.parametrize("end", [b"", b"\n", b"\n# EOF", b"\n# EOF\n", b"\n\n# EOF\n\n"])
def test_ends_of_the_engine(metrics: GatewayMetrics, end: bytes) -> None:
    """A missing line end is added and OpenMetrics' end mark taken off, as ours still follows."""
    both = metrics.render(b"# TYPE a gauge\na 1" + end)
    assert both.startswith(b"# TYPE a gauge\na 1\n")
    assert b"EOF" not in both
    assert parsed(both)["a", frozenset()] == 1
    assert metrics.render(b"# EOF\n").startswith(b"# HELP gateway_")


def test_a_comment_is_no_end(metrics: GatewayMetrics) -> None:
    """Only a whole line is an end mark."""
    assert metrics.render(b"# TYPE a gauge\na 1\n# HELP a # EOF\n").startswith(
        b"# TYPE a gauge\na 1\n# HELP a # EOF\n"
    )


def test_a_stream(metrics: GatewayMetrics) -> None:
    """A request is counted once, with its times, bytes and tokens."""
    metrics.observe(
        ended(
            key="team-a",
            queue_seconds=0.2,
            first_byte=100.7,
            bytes_in=10,
            bytes_out=20,
            is_stream=True,
            prompt_tokens=3,
            completion_tokens=4,
        )
    )
    assert value(metrics, "requests_total", route=CHAT, status="200", outcome="complete") == 1
    assert value(metrics, "ttft_seconds_sum", route=CHAT) == pytest.approx(0.7)
    assert value(metrics, "ttft_seconds_bucket", route=CHAT, le="0.5") == 0
    assert value(metrics, "ttft_seconds_bucket", route=CHAT, le="0.75") == 1
    assert value(metrics, "request_duration_seconds_sum", route=CHAT) == 2
    assert value(metrics, "queue_seconds_sum") == pytest.approx(0.2)
    assert value(metrics, "bytes_total", direction="in") == 10
    assert value(metrics, "bytes_total", direction="out") == 20
    assert value(metrics, "tokens_total", key="team-a", kind="prompt") == 3
    assert value(metrics, "tokens_total", key="team-a", kind="completion") == 4
    assert value(metrics, "disconnects_total") == 0
    assert b"_created" not in metrics.render(None)


def test_estimates_are_apart(metrics: GatewayMetrics) -> None:
    """What was only estimated is not mixed with what the engine said; without keys the key is empty."""
    metrics.observe(ended(completion_tokens=4, is_estimate=True))
    assert value(metrics, "tokens_total", key="", kind="completion_estimate") == 4
    assert value(metrics, "tokens_total", key="", kind="completion") is None


def test_whole_answers_have_no_ttft(metrics: GatewayMetrics) -> None:
    """The first byte of an answer that is not streamed is its end, no first token."""
    metrics.observe(ended(first_byte=101.9))
    assert value(metrics, "ttft_seconds_count", route=CHAT) == 0
    assert value(metrics, "request_duration_seconds_count", route=CHAT) == 1


def test_a_rejection(metrics: GatewayMetrics) -> None:
    """A rejection counts under its reason, and leaves the times of answers alone."""
    metrics.observe(ended(status=429, outcome=Outcome.REJECTED, reason="saturated"))
    metrics.observe(ended(status=503, outcome=Outcome.REJECTED, reason="queue_timeout", queue_seconds=30.0))
    assert value(metrics, "rejections_total", reason="saturated") == 1
    assert value(metrics, "requests_total", route=CHAT, status="429", outcome="rejected") == 1
    assert value(metrics, "request_duration_seconds_count", route=CHAT) is None
    assert value(metrics, "queue_seconds_sum") == 30


def test_only_who_came_to_wait_for_a_turn_is_in_the_queue_times(metrics: GatewayMetrics) -> None:
    """Probes, refused keys and the like never asked for a turn; who got one at once waited 0 s."""
    metrics.observe(ended())
    metrics.observe(ended(status=401, outcome=Outcome.REJECTED, reason="unauthorized"))
    assert value(metrics, "queue_seconds_count") == 0
    metrics.observe(ended(queue_seconds=0.0))
    metrics.observe(ended(status=0, outcome=Outcome.CLIENT_GONE, queue_seconds=3.0))
    assert (value(metrics, "queue_seconds_count"), value(metrics, "queue_seconds_sum")) == (2, 3)


def test_a_disconnect(metrics: GatewayMetrics) -> None:
    """A client that left before a status has none."""
    metrics.observe(ended(status=0, outcome=Outcome.CLIENT_GONE))
    assert value(metrics, "disconnects_total") == 1
    assert value(metrics, "requests_total", route=CHAT, status="none", outcome="client_gone") == 1


def test_labels_are_bounded(metrics: GatewayMetrics) -> None:
    """No route, key, reason or status that a client invents makes a series, or is kept."""
    for number in range(300):
        made_up = f"/x{number}"
        rejected = {"status": number * 7, "outcome": Outcome.REJECTED, "reason": made_up}
        metrics.observe(ended(route=made_up, **rejected))
        metrics.observe(ended(route=made_up, key=made_up, prompt_tokens=1))
    samples = parsed(metrics.render(None))
    routes = {dict(labels).get("route") for _, labels in samples}
    keys = {dict(labels).get("key") for _, labels in samples}
    reasons = {dict(labels).get("reason") for _, labels in samples}
    assert (routes, keys) == ({None, "unmatched"}, {None, "other"})
    assert len(reasons) == 1 + 32 + 1
    assert value(metrics, "rejections_total", reason="other") == 300 - 32
    assert (len(metrics._tokens_of), len(metrics._times_of)) == (0, 1)


def test_a_key_added_later() -> None:
    """Key names are asked for as they are now."""
    names = {"old"}
    metrics = GatewayMetrics([CHAT], names, BUILD)
    metrics.observe(ended(key="new", prompt_tokens=1))
    names.add("new")
    metrics.observe(ended(key="new", prompt_tokens=2))
    assert value(metrics, "tokens_total", key="other", kind="prompt") == 1
    assert value(metrics, "tokens_total", key="new", kind="prompt") == 2


def test_gauges(metrics: GatewayMetrics) -> None:
    """Gauges are asked for when the metrics are."""
    board = StatusBoard()
    metrics.follow(board)
    metrics.watch(in_flight=lambda: 3, waiting=lambda: 2, log_lines_dropped=lambda: 4)
    assert (value(metrics, "in_flight"), value(metrics, "waiting")) == (3, 2)
    assert [value(metrics, "log_lines_dropped_total") for _ in range(2)] == [4, 4]
    board.move(EngineState.FAILED)
    values = {state: value(metrics, "engine_state", state=state.value) for state in EngineState}
    assert values == {state: float(state is EngineState.FAILED) for state in EngineState}
    assert value(metrics, "build_info", **BUILD) == 1


def test_counting_keeps_nothing(metrics: GatewayMetrics) -> None:
    """A thousand more requests take no more memory than one."""
    record = ended(key="team-a", is_stream=True, first_byte=100.5, prompt_tokens=1, completion_tokens=1)
    metrics.observe(record)
    tracemalloc.start()
    try:
        for _ in range(1000):
            metrics.observe(record)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 16 * 1024


def test_the_engines_life(metrics: GatewayMetrics) -> None:
    """Restarts and failures are counted once each, a hang from 0; a drain is neither."""
    board = StatusBoard()
    metrics.follow(board)
    assert HUNG in {entry.code for entry in CATALOGUE}
    assert value(metrics, "engine_failures_total", code=HUNG) == 0
    board.progress(Phase.READY)
    board.move(EngineState.READY)
    took = value(metrics, "engine_start_seconds")
    assert took is not None
    assert took > 0
    for code in (HUNG, HUNG, "engine-crashed"):
        board.move(EngineState.UNHEALTHY)
        board.move(EngineState.BACKOFF, error=Diagnosis(code, "it was lost"))
        board.restart()
        board.progress(Phase.IMPORTING, 0.5)
        board.move(EngineState.READY)
    board.move(EngineState.DRAINING)
    board.move(EngineState.STOPPED)
    assert value(metrics, "engine_restarts_total") == 3
    assert value(metrics, "engine_failures_total", code=HUNG) == 2
    assert value(metrics, "engine_failures_total", code="engine-crashed") == 1


def test_a_failed_start(metrics: GatewayMetrics) -> None:
    """A start that fails for good is a failure and no restart."""
    board = StatusBoard()
    metrics.follow(board)
    board.move(EngineState.FAILED, error=Diagnosis("gated-model", "it is gated"))
    assert value(metrics, "engine_failures_total", code="gated-model") == 1
    assert value(metrics, "engine_restarts_total") == 0
    assert value(metrics, "engine_start_seconds") == 0


async def test_the_caches_disk(metrics: GatewayMetrics, tmp_path: Path) -> None:
    """Free space and size of the folder's file system; of what does not answer neither is told as 0."""
    space = await Disk(tmp_path).space()
    assert space is not None
    assert 0 < space.free <= space.size == shutil.disk_usage(tmp_path).total
    samples = parsed(metrics.render(None, space))
    assert samples["gateway_cache_free_bytes", frozenset()] == space.free
    assert samples["gateway_cache_size_bytes", frozenset()] == space.size
    unknown = value(metrics, "cache_free_bytes")
    assert unknown is not None
    assert math.isnan(unknown)
    assert await Disk(tmp_path / "nothing").space() is None


async def test_a_dead_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file system that does not answer blocks nobody, is asked once at a time, and may come back."""
    asked: list[None] = []
    answer = threading.Event()
    usage = shutil.disk_usage(tmp_path)

    def blocked(_: Path) -> Any:
        asked.append(None)
        answer.wait(20)
        return usage

    monkeypatch.setattr("vllm_engine.gateway.observe.disk_usage._SECONDS", 0.01)
    monkeypatch.setattr("vllm_engine.gateway.observe.disk_usage.shutil.disk_usage", blocked)
    disk = Disk(tmp_path)
    assert [await disk.space() for _ in range(3)] == [None] * 3
    assert len(asked) == 1
    answer.set()
    monkeypatch.setattr("vllm_engine.gateway.observe.disk_usage._SECONDS", 20)
    space = await disk.space()
    assert space is not None
    assert space.size == usage.total
