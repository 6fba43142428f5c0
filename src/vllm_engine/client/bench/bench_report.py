"""Summaries derived from rows, in the words of `vllm bench serve`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vllm_engine.client.bench.bench_plan import METRICS, Metric
from vllm_engine.client.bench.bench_rows import Row

_TITLES: Mapping[Metric, str] = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


@dataclass(frozen=True)
class Quantiles:
    """How a metric is distributed; NaN where there is nothing to say."""

    mean: float
    median: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """One run in figures; latencies in milliseconds, of the requests that succeeded."""

    completed: int
    failed: int
    duration_s: float
    events: int
    total_output_tokens: int
    latencies_ms: Mapping[Metric, Quantiles]
    errors: Mapping[str, int]
    good: int | None
    """Requests within every SLO; None where none was given."""

    @property
    def request_throughput(self) -> float:
        """Completed requests per second."""
        return self.completed / self.duration_s if self.duration_s else 0.0

    @property
    def output_throughput(self) -> float:
        """Output tokens per second."""
        return self.total_output_tokens / self.duration_s if self.duration_s else 0.0

    @property
    def request_goodput(self) -> float | None:
        """Requests within every SLO, per second."""
        return None if self.good is None or not self.duration_s else self.good / self.duration_s

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON-able object; null where there is nothing to say."""
        figures = {
            "request_throughput": self.request_throughput,
            "output_throughput": self.output_throughput,
            "request_goodput": self.request_goodput,
        }
        latencies = {
            metric: {name: None if math.isnan(value) else value for name, value in asdict(found).items()}
            for metric, found in self.latencies_ms.items()
        }
        return {**asdict(self), **figures, "latencies_ms": latencies, "errors": dict(self.errors)}


def summarise(rows: Sequence[Row], slos_ms: Mapping[Metric, float] | None = None) -> Summary:
    """Derive a run's figures from its rows."""
    good = [row for row in rows if row.error is None]
    return Summary(
        completed=len(good),
        failed=len(rows) - len(good),
        duration_s=max((row.sent_s + row.e2el_ms / 1e3 for row in rows), default=0.0),
        events=sum(row.events for row in rows),
        total_output_tokens=sum(row.tokens for row in good),
        latencies_ms={metric: quantiles(_values(good, metric)) for metric in METRICS},
        errors=Counter(row.error for row in rows if row.error is not None),
        good=sum(is_good(row, slos_ms) for row in good) if slos_ms else None,
    )


def is_good(row: Row, slos_ms: Mapping[Metric, float]) -> bool:
    """Whether a request kept every SLO; a request's ITL is the mean of its gaps."""
    if row.error is not None:
        return False
    found: dict[Metric, float | None] = {"ttft": row.ttft_ms, "tpot": row.tpot_ms, "e2el": row.e2el_ms}
    if row.itl_ms:
        found["itl"] = quantiles(_values([row], "itl")).mean
    return all((found.get(metric) or 0.0) <= limit for metric, limit in slos_ms.items())


def quantiles(counts: Mapping[float, int]) -> Quantiles:
    """Describe a distribution that is given as how often each value occurred."""
    total = sum(counts.values())
    if not total:
        return Quantiles(math.nan, math.nan, math.nan, math.nan)
    mean = sum(value * count for value, count in counts.items()) / total
    ordered = sorted(counts.items())
    return Quantiles(mean, *(_percentile(ordered, total, part) for part in (0.50, 0.95, 0.99)))


def _percentile(ordered: Sequence[tuple[float, int]], total: int, part: float) -> float:
    """Interpolate between the two nearest of the `total` values, as numpy does."""
    position = part * (total - 1)
    below = _at(ordered, math.floor(position))
    return below + (_at(ordered, math.ceil(position)) - below) * (position - math.floor(position))


def _at(ordered: Sequence[tuple[float, int]], index: int) -> float:
    for value, count in ordered:
        if index < count:
            return value
        index -= count
    return ordered[-1][0]


def _values(rows: Iterable[Row], metric: Metric) -> Counter[float]:
    values: Counter[float] = Counter()
    for row in rows:
        if metric == "itl":
            for gap, count in row.itl_ms.items():
                values[float(gap)] += count
        else:
            value = {"ttft": row.ttft_ms, "tpot": row.tpot_ms, "e2el": row.e2el_ms}[metric]
            if value is not None:
                values[value] += 1
    return values


def render(summary: Summary) -> str:
    """Write a summary as text, in the form of `vllm bench serve`."""
    lines = [
        f"{' Serving Benchmark Result ':=^50}",
        _line("Successful requests:", summary.completed),
        _line("Failed requests:", summary.failed),
        _line("Benchmark duration (s):", summary.duration_s),
        _line("Total generated tokens:", summary.total_output_tokens),
        _line("Token events:", summary.events),
        _line("Request throughput (req/s):", summary.request_throughput),
    ]
    if summary.request_goodput is not None:
        lines.append(_line("Request goodput (req/s):", summary.request_goodput))
    lines.append(_line("Output token throughput (tok/s):", summary.output_throughput))
    for metric, found in summary.latencies_ms.items():
        name = metric.upper()
        lines.append(f"{_TITLES[metric]:-^50}")
        lines.append(_line(f"Mean {name} (ms):", found.mean))
        lines.append(_line(f"Median {name} (ms):", found.median))
        lines.append(_line(f"P95 {name} (ms):", found.p95))
        lines.append(_line(f"P99 {name} (ms):", found.p99))
    lines += [f"{'Errors':-^50}"] if summary.errors else []
    lines += [f"{count} x {error}" for error, count in summary.errors.items()]
    return "\n".join([*lines, "=" * 50])


def _line(label: str, value: float) -> str:
    return f"{label:<40} {value:<10.2f}" if isinstance(value, float) else f"{label:<40} {value:<10}"
