"""Prometheus' text format as vLLM's two frontends write it, read into families and written as one text.

The Python frontend writes format 0.0.4, the Rust frontend OpenMetrics 1.0. They differ in the order of
labels, in how numbers are written, and in a counter's family, which OpenMetrics names without `_total`.
`prometheus_client`'s own parser looks at every character while every stream waits: here a series that
was there in the reading before is known by its whole text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client.utils import floatToGoString

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"
_UNTYPED: Final = "untyped"
_TOTAL: Final = "_total"

_LABEL = re.compile(r"([a-zA-Z_]\w*)=\"((?:[^\"\\]|\\.)*)\"")
_SAMPLE = re.compile(
    rf"(?P<name>[a-zA-Z_:][\w:]*)(?:\{{(?P<labels>(?:{_LABEL.pattern},?)*)\}})?[ \t]+(?P<value>\S+)"
)


class Series(NamedTuple):
    """One time series: its name and labels as they are written, and a bucket's upper bound."""

    text: str
    bound: float | None = None


@dataclass(slots=True)
class Family:
    """One metric; a counter's name ends in `_total`, as its series do."""

    name: str
    kind: str
    help: str = ""
    samples: dict[Series, float] = field(default_factory=dict)

    @property
    def bounds(self) -> frozenset[float]:
        """The upper bounds of a histogram's buckets."""
        return frozenset(one.bound for one in self.samples if one.bound is not None)


class MetricsReader:
    """Reads one frontend's text again and again; knows the series that it has seen."""

    def __init__(self) -> None:
        self._known: dict[str, Series] = {}

    def read(self, text: str) -> dict[str, Family]:
        """Return the text's families by name, without those that have no series.

        Raises:
            ValueError: a line is not in the text format.
        """
        families: dict[str, Family] = {}
        helps: dict[str, str] = {}
        seen: dict[str, Series] = {}
        family = Family("", _UNTYPED)
        for line in text.splitlines():
            if line.startswith("#"):
                # Exactly one blank between the parts, which is how both write it.
                _, _, rest = line.partition(" ")
                keyword, _, rest = rest.partition(" ")
                name, _, rest = rest.partition(" ")
                if keyword == "HELP":
                    helps[name] = rest
                elif keyword == "TYPE":
                    full = name if rest != COUNTER or name.endswith(_TOTAL) else name + _TOTAL
                    family = families.setdefault(full, Family(full, rest, helps.get(name, "")))
            elif line:
                series, value = self._sample(line, seen)
                if not series.text.startswith(family.name) or not family.name:
                    name = series.text.partition("{")[0]
                    family = families.setdefault(name, Family(name, _UNTYPED))
                family.samples[series] = value
        self._known = seen  # what is gone, such as a LoRA's series, is forgotten
        return {name: one for name, one in families.items() if one.samples}

    def _sample(self, line: str, seen: dict[str, Series]) -> tuple[Series, float]:
        written, _, value = line.rpartition(" ")
        series = self._known.get(written)
        if series is None:
            match = _SAMPLE.match(line)
            if match is None:
                raise ValueError(f"not a line of Prometheus' text format: {line[:200]!r}")
            # What may follow the value, a time or an exemplar, is left out.
            written, value = line[: match.start("value") - 1], match["value"]
            series = _series(match["name"], match["labels"] or "")
        seen[written] = series
        return series, float(value)


def written(families: Iterable[Family]) -> bytes:
    """Return these as one text in format 0.0.4."""
    lines: list[str] = []
    for one in families:
        if one.help:
            lines.append(f"# HELP {one.name} {one.help}")
        lines.append(f"# TYPE {one.name} {one.kind}")
        lines += [f"{series.text} {_number(value)}" for series, value in one.samples.items()]
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _series(name: str, labels: str) -> Series:
    pairs: Mapping[str, str] = dict(_LABEL.findall(labels))
    bound = float(pairs["le"]) if "le" in pairs else None
    if bound is not None:
        pairs = {**pairs, "le": _number(bound)}
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(pairs.items()))
    return Series(f"{name}{{{inside}}}" if inside else name, bound)


def _number(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text
