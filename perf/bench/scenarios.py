"""What is asked of each target, and what one leg of it (a target in a round) came to."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from perf.bench import machine
from perf.bench.processes import MODEL, Running
from vllm_engine.client.bench.bench_plan import Plan
from vllm_engine.client.bench.bench_report import summarise, write_rows
from vllm_engine.client.bench.bench_run import run_load

SETTLE_SECONDS = 2.0


@dataclass(frozen=True)
class Leg:
    """What one target did in one round of one scenario; times in milliseconds, memory in MiB."""

    scenario: str
    target: str
    round: int
    requests: int
    errors: int
    first_error: str | None
    events_per_second: float
    ttft_p50: float
    ttft_p99: float
    itl_p50: float
    itl_p99: float
    e2el_p50: float
    cpu_us_per_event: float
    cpu_us_per_request: float
    cpu_share: float
    """Of one core, while the leg ran."""
    harness_share: float
    """The generator's share of one core: near 1 it is the limit and not the target."""
    others_share: float
    """What programs that are none of ours used meanwhile, in cores: above a few hundredths they disturb."""
    rss_before: float
    rss_peak: float
    rss_after: float


@dataclass(frozen=True)
class Scenario:
    """A load; `pace` is the upstream's tokens per second and stream."""

    name: str
    title: str
    pace: float
    rounds: int
    run: Callable[[Scenario, Running, int, Path], Leg]
    streams: int = 1
    requests: int = 1
    max_tokens: int = 128

    def plan(self, url: str, round_number: int) -> Plan:
        """Return what to send in one round."""
        return Plan(
            url,
            MODEL,
            requests=self.requests,
            concurrency=self.streams,
            max_tokens=self.max_tokens,
            seed=round_number,
            timeout_seconds=120.0,
        )


def stream_leg(scenario: Scenario, target: Running, round_number: int, rows_path: Path) -> Leg:
    """Send the scenario's requests and measure the target meanwhile."""
    plan = scenario.plan(target.url, round_number)
    before, began = target.rss_bytes(), _clocks(target)
    with _peak_rss(target) as peak:
        rows = run_load(plan)
    took, cpu, own, others = (end - begin for begin, end in zip(began, _clocks(target), strict=True))
    write_rows(rows_path, rows, scenario=scenario.name, target=target.name, round=round_number)
    time.sleep(SETTLE_SECONDS)
    found = summarise(rows)
    return Leg(
        scenario=scenario.name,
        target=target.name,
        round=round_number,
        requests=len(rows),
        errors=found.failed,
        first_error=next(iter(found.errors), None),
        events_per_second=found.events / found.duration_s,
        ttft_p50=found.latencies_ms["ttft"].median,
        ttft_p99=found.latencies_ms["ttft"].p99,
        itl_p50=found.latencies_ms["itl"].median,
        itl_p99=found.latencies_ms["itl"].p99,
        e2el_p50=found.latencies_ms["e2el"].median,
        cpu_us_per_event=cpu * 1e6 / max(1, found.events),
        cpu_us_per_request=cpu * 1e6 / len(rows),
        cpu_share=cpu / took,
        harness_share=own / took,
        others_share=max(0.0, others / took),
        rss_before=_mib(before),
        rss_peak=_mib(max(peak)),
        rss_after=_mib(target.rss_bytes()),
    )


def _clocks(target: Running) -> tuple[float, float, float, float]:
    """Return the time, and the processor time of the target, the generator, and what is none of ours."""
    return time.monotonic(), target.cpu_seconds(), time.process_time(), machine.others_seconds()


def idle_leg(scenario: Scenario, target: Running, round_number: int, rows_path: Path) -> Leg:
    """Hold open connections that ask nothing, and measure memory and what a stream costs beside them."""
    before = target.rss_bytes()
    connections, failure = _connect_many(target.url, scenario.streams)
    try:
        time.sleep(SETTLE_SECONDS)
        held = target.rss_bytes()
        beside = dataclasses.replace(scenario, streams=1)
        leg = stream_leg(beside, target, round_number, rows_path)
    finally:
        for connection in connections:
            connection.close()
    time.sleep(SETTLE_SECONDS)
    missing = scenario.streams - len(connections)
    return dataclasses.replace(
        leg,
        errors=leg.errors + missing,
        first_error=failure or leg.first_error,
        rss_before=_mib(before),
        rss_peak=_mib(held),
        rss_after=_mib(target.rss_bytes()),
    )


def _connect_many(url: str, count: int) -> tuple[list[socket.socket], str | None]:
    host, _, port = url.removeprefix("http://").partition(":")
    connections: list[socket.socket] = []
    while len(connections) < count:
        try:
            connections.append(socket.create_connection((host, int(port)), timeout=5))
        except OSError as error:
            return connections, f"connection {len(connections) + 1}: {error}"
    return connections, None


@contextlib.contextmanager
def _peak_rss(target: Running) -> Iterator[list[int]]:
    seen = [target.rss_bytes()]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            seen.append(target.rss_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _mib(size: float) -> float:
    return size / 2**20


SCENARIOS = (
    Scenario("paced", "256 streams of 20 tokens/s", 20, 3, stream_leg, 256, 256, 200),
    Scenario("full", "256 streams of 200 tokens/s: as fast as it goes", 200, 3, stream_leg, 256, 256, 320),
    Scenario("single", "One stream after the other, 2 tokens each", 1000, 5, stream_leg, 1, 400, 2),
    Scenario("slow", "2,000 streams of 1 token/s", 1, 1, stream_leg, 2000, 2000, 20),
    Scenario(
        "idle", "10,000 idle connections, and single streams beside them", 1000, 1, idle_leg, 10_000, 200, 2
    ),
)


def median_leg(legs: list[Leg]) -> Leg:
    """Combine the rounds of one target: medians of figures, sums of requests and errors."""
    numbers = [field.name for field in dataclasses.fields(Leg) if field.type == "float"]
    medians = {name: statistics.median(getattr(leg, name) for leg in legs) for name in numbers}
    first = next((leg.first_error for leg in legs if leg.first_error), None)
    errors, requests = sum(leg.errors for leg in legs), sum(leg.requests for leg in legs)
    return dataclasses.replace(legs[0], errors=errors, requests=requests, first_error=first, **medians)
