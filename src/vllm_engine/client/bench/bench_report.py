"""One row per request, and the figures derived from rows, with the names of `vllm bench serve`."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vllm_engine.client.bench.bench_plan import METRICS, Metric

_TITLES: Mapping[Metric, str] = {
    "ttft": "Time to First Token",
    "tpot": "Time per Output Token (excl. 1st token)",
    "itl": "Inter-token Latency",
    "e2el": "End-to-end Latency",
}


@dataclass(frozen=True)
class Row:
    """The raw result of one request; metrics as `vllm bench serve` defines them, on events with choices."""

    number: int
    sent_s: float
    """Seconds from the start of the run."""
    late_ms: float = 0.0
    """Open loop: how late it was sent; large values mean that the generator was too slow."""
    status: int = 0
    """0 if there was no response."""
    ttft_ms: float | None = None
    e2el_ms: float = 0.0
    """To the last token event, or to the failure."""
    events: int = 0
    tokens: int = 0
    itl_ms: Mapping[str, int] = field(default_factory=dict)
    """How often each gap between token events occurred, in milliseconds to three digits."""
    error: str | None = None

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first."""
        if self.ttft_ms is None or self.tokens < 2:
            return None
        return (self.e2el_ms - self.ttft_ms) / (self.tokens - 1)


def count_gaps(gaps_s: Iterable[float]) -> dict[str, int]:
    """Count gaps, given in seconds, by their milliseconds to three digits."""
    return dict(Counter(f"{gap * 1e3:.3g}" for gap in gaps_s))


def write_rows(path: Path, rows: Iterable[Row], **more: Any) -> None:
    """Append rows to a JSON Lines file, each with the fields in `more`, such as what was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(more | asdict(row)) + "\n")


@dataclass(frozen=True)
class Quantiles:
    """The distribution of a metric; NaN without values."""

    mean: float
    median: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """The figures of one run; latencies are in milliseconds, of successful requests."""

    completed: int
    failed: int
    duration_s: float
    events: int
    total_output_tokens: int
    latencies_ms: Mapping[Metric, Quantiles]
    errors: Mapping[str, int]
    good: int | None
    """Requests within every SLO; None if there is none."""

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
        """Return it as a JSON-able object, with null for NaN."""
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
    """Derive the figures of a run from its rows."""
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
    """Whether a request met every SLO; its ITL is the mean of its gaps."""
    if row.error is not None:
        return False
    found: dict[Metric, float | None] = {"ttft": row.ttft_ms, "tpot": row.tpot_ms, "e2el": row.e2el_ms}
    if row.itl_ms:
        found["itl"] = quantiles(_values([row], "itl")).mean
    return all((found.get(metric) or 0.0) <= limit for metric, limit in slos_ms.items())


def quantiles(counts: Mapping[float, int]) -> Quantiles:
    """Describe a distribution, given as the count of each value."""
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
    """Format a summary as `vllm bench serve` does."""
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
        for label, value in asdict(found).items():
            lines.append(_line(f"{label.capitalize()} {name} (ms):", value))
    lines += [f"{'Errors':-^50}"] if summary.errors else []
    lines += [f"{count} x {error}" for error, count in summary.errors.items()]
    return "\n".join([*lines, "=" * 50])


def _line(label: str, value: float) -> str:
    return f"{label:<40} {value:<10.2f}" if isinstance(value, float) else f"{label:<40} {value:<10}"
