"""One reading of vLLM's metrics, and the point of the plots that it makes with the reading before it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

_TTFT = "vllm:time_to_first_token_seconds"
_ITL = "vllm:inter_token_latency_seconds"
_VALUES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_cache": "vllm:kv_cache_usage_perc",
    "prompt": "vllm:prompt_tokens_total",
    "generated": "vllm:generation_tokens_total",
}
_PREFIXES = (*(f"{name}{end}" for name in _VALUES.values() for end in "{ "), f"{_TTFT}_", f"{_ITL}_")
"""How the lines that are read begin: vLLM writes some hundred others, and parsing is not cheap."""


@dataclass(slots=True)
class Latency:
    """A histogram's totals: seconds, observations, and observations up to each bucket's bound in seconds."""

    seconds: float = 0.0
    count: float = 0.0
    buckets: dict[float, float] = field(default_factory=lambda: defaultdict(float))

    def since(self, earlier: Latency) -> Latency:
        """Return what was observed after `earlier`."""
        buckets = {bound: count - earlier.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Latency(self.seconds - earlier.seconds, self.count - earlier.count, buckets)

    @property
    def mean(self) -> float | None:
        """The mean in seconds; None without observations."""
        return self.seconds / self.count if self.count > 0 else None

    def quantile(self, share: float) -> float | None:
        """Return the quantile in seconds, linear within its bucket, as PromQL's `histogram_quantile`."""
        below, low, rank = 0.0, 0.0, share * self.count
        if self.count <= 0:
            return None
        for bound, count in sorted(self.buckets.items()):
            if count >= rank:
                within = (rank - below) / (count - below) if count > below else 1.0
                return low if bound == float("inf") else low + (bound - low) * within
            below, low = count, bound
        return low or None


class OwnWork(NamedTuple):
    """The engine's work for our own one-token checks, in total, as vLLM's counters count it."""

    asked: float = 0.0
    prompt: float = 0.0
    generated: float = 0.0


@dataclass(slots=True)
class Reading:
    """What the engine's metrics said at one moment; `at` is `time.monotonic` seconds."""

    at: float
    running: float = 0.0
    waiting: float = 0.0
    kv_cache: float = 0.0
    prompt: float = 0.0
    generated: float = 0.0
    ttft: Latency = field(default_factory=Latency)
    itl: Latency = field(default_factory=Latency)
    own: OwnWork = field(default_factory=OwnWork)
    """What of these counts was not clients' work."""

    def is_before(self, later: Reading) -> bool:
        """Whether `later` goes on from here; a restarted engine counts from 0 again."""
        return (
            self.generated <= later.generated
            and self.prompt <= later.prompt
            and self.ttft.count <= later.ttft.count
            and self.itl.count <= later.itl.count
        )


def read_metrics(text: str, at: float) -> Reading:
    """Read what the plots need from vLLM's `/metrics`, summed over its engines.

    Raises:
        ValueError: a line is not in Prometheus' text format.
    """
    reading = Reading(at)
    lines = [line for line in text.splitlines() if line.startswith(_PREFIXES)]
    totals: dict[str, float] = defaultdict(float)
    usage = 0.0
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name == _VALUES["kv_cache"]:
                usage = max(usage, sample.value)
            elif sample.name.endswith("_bucket"):
                latency = reading.ttft if sample.name.startswith(_TTFT) else reading.itl
                latency.buckets[float(sample.labels["le"])] += sample.value
            else:
                totals[sample.name] += sample.value
    for name, metric in _VALUES.items():
        setattr(reading, name, totals[metric])
    reading.kv_cache = usage
    for metric, latency in ((_TTFT, reading.ttft), (_ITL, reading.itl)):
        latency.seconds, latency.count = totals[f"{metric}_sum"], totals[f"{metric}_count"]
    return reading


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of the plots; rates and latencies are of the time since the point before."""

    at: float
    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None
    generated_per_second: float | None = None
    prompt_per_second: float | None = None
    ttft_mean: float | None = None
    ttft_p95: float | None = None
    itl_mean: float | None = None
    itl_p95: float | None = None


def point(now: Reading, before: Reading | None, queued: int) -> Point:
    """Return the point of a reading; `queued` requests wait in the gateway.

    Sets `now.own` to what of our own work is in the reading.
    """
    waiting = now.waiting + queued
    if before is None or not before.is_before(now):
        return Point(now.at, now.running, waiting, now.kv_cache)
    seconds = now.at - before.at
    ttft, itl = now.ttft.since(before.ttft), now.itl.since(before.itl)
    generated, prompt = now.generated - before.generated, now.prompt - before.prompt
    # vLLM may not have counted all of our own work yet: never subtract more than a counter has grown by.
    came = (ttft.count, prompt, generated)
    own = OwnWork(*(min(new, now_ - was) for new, now_, was in zip(came, now.own, before.own, strict=True)))
    now.own = OwnWork(*(was + more for was, more in zip(before.own, own, strict=True)))
    if ttft.count == own.asked:
        # Only our own checks were observed: no latency is shown. A histogram does not say which of its
        # observations are ours, so among clients' they are left in.
        ttft = Latency()
    return Point(
        at=now.at,
        running=now.running,
        waiting=waiting,
        kv_cache=now.kv_cache,
        generated_per_second=(generated - own.generated) / seconds,
        prompt_per_second=(prompt - own.prompt) / seconds,
        ttft_mean=ttft.mean,
        ttft_p95=ttft.quantile(0.95),
        itl_mean=itl.mean,
        itl_p95=itl.quantile(0.95),
    )
