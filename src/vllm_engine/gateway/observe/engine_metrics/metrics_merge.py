"""One text out of the metrics of both of vLLM's frontends, which share one scheduler.

What each frontend counts of its own requests adds up. So do the scheduler's counters: it reports each step to
one frontend (0.32's `v1/core/sched/scheduler.py`), that of the request that has run longest.
So its gauges are up to date there and stand still at the other, for hours where nobody is left to be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vllm_engine.engine.engine_state import Frontend
from vllm_engine.gateway.observe.engine_metrics.metrics_text import (
    GAUGE,
    HISTOGRAM,
    Family,
    MetricsReader,
    Series,
    written,
)

_ADDED_UP = frozenset(("counter", "histogram", "summary"))
_OF_THE_SCHEDULER = tuple(
    f"vllm:{name}" for name in ("prefix_cache_", "external_prefix_cache_", "spec_decode_", "estimated_")
)
"""Counters that the scheduler reports together with its gauges."""

Families = Mapping[str, Family]


def merged(python: Families, rust: Families, reported_to: Frontend | None) -> list[Family]:
    """Return the families of both, those of the Python frontend first.

    `reported_to` is the frontend that has the scheduler's gauges; None while no request is at the engine:
    they are 0. Of two families of one name and of different types the Python frontend's counts.
    """
    result = []
    for name, ours in python.items():
        theirs = rust.get(name)
        if theirs is None or theirs.kind != ours.kind:
            result.append(ours)
        elif ours.kind in _ADDED_UP:
            result.append(_sum(ours, theirs))
        elif _is_scheduler_gauge(ours):
            result.append(_gauge(ours, theirs, reported_to))
        else:
            result.append(_newest(ours, theirs))
    return result + [family for name, family in rust.items() if name not in python]


class Merge:
    """Merges reading after reading, and finds out to which frontend the scheduler reports.

    That is the one whose numbers of the scheduler's have moved since the reading before. Where that does not
    tell, it is the one with the oldest request. Not always: the scheduler may have taken up two requests in
    another order than they were sent in.
    """

    def __init__(self) -> None:
        self._readers = {one: MetricsReader() for one in Frontend}
        self._before: dict[Frontend, dict[Series, float]] = {}
        self._reported_to: Frontend | None = None

    def text(self, texts: Mapping[Frontend, bytes], at_engine: Sequence[Frontend]) -> bytes:
        """Return one text in format 0.0.4 of those of one or both frontends.

        `at_engine` are the frontends of the requests at the engine, oldest first.

        Raises:
            ValueError: one of them is not in Prometheus' text format.
        """
        read = {one: self._readers[one].read(text.decode()) for one, text in texts.items()}
        if len(read) < len(Frontend):
            return b"".join(written(one.values()) for one in read.values())
        python, rust = read[Frontend.PYTHON], read[Frontend.RUST]
        return written(merged(python, rust, self._find(python, rust, at_engine)))

    def _find(self, python: Families, rust: Families, at_engine: Sequence[Frontend]) -> Frontend | None:
        now = {Frontend.PYTHON: _reports(python, rust), Frontend.RUST: _reports(rust, python)}
        moved = [one for one in Frontend if self._before and now[one] != self._before[one]]
        self._before = now
        if not at_engine:
            self._reported_to = None
        elif len(moved) == 1:
            self._reported_to = moved[0]
        elif moved or self._reported_to not in at_engine:
            self._reported_to = at_engine[0]
        return self._reported_to


def _reports(own: Families, other: Families) -> dict[Series, float]:
    """Return what has come from the scheduler."""
    return {
        series: value
        for name, family in own.items()
        if name in other and (_is_scheduler_gauge(family) or name.startswith(_OF_THE_SCHEDULER))
        for series, value in family.samples.items()
    }


def _is_scheduler_gauge(family: Family) -> bool:
    is_of_vllm = family.kind == GAUGE and family.name.startswith("vllm:")
    return is_of_vllm and not family.name.endswith(("_info", "_state"))


def _sum(ours: Family, theirs: Family) -> Family:
    samples = dict(ours.samples)
    for series, value in theirs.samples.items():
        samples[series] = samples.get(series, 0.0) + value
    if ours.kind == HISTOGRAM and ours.bounds != theirs.bounds:
        # How many are below a bound that only one of them has is not known of the other.
        both = ours.bounds & theirs.bounds
        samples = {one: value for one, value in samples.items() if one.bound is None or one.bound in both}
    return Family(ours.name, ours.kind, ours.help, samples)


def _gauge(ours: Family, theirs: Family, reported_to: Frontend | None) -> Family:
    every: Iterable[Series] = dict.fromkeys((*ours.samples, *theirs.samples))
    known = theirs.samples if reported_to is Frontend.RUST else ours.samples
    samples = {one: known.get(one, 0.0) if reported_to else 0.0 for one in every}
    return Family(ours.name, ours.kind, ours.help, samples)


def _newest(ours: Family, theirs: Family) -> Family:
    """Return all series of both; an `_info` has the time when it was last so for its value, or 1."""
    samples = dict(ours.samples)
    for series, value in theirs.samples.items():
        samples[series] = max(value, samples.get(series, value))
    return Family(ours.name, ours.kind, ours.help, samples)
