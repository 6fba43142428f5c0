"""Legs as Markdown tables, and their place in a document."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.bench.scenarios import Leg, Scenario, median_leg
from perf.bench.targets import DIRECT

Cell = Callable[[Leg, Sequence[Leg], Sequence[Leg]], str]
"""Writes a cell from the medians, the rounds they come from, and the direct rounds beside those."""


def table(scenario: Scenario, legs: Sequence[Leg], unavailable: Mapping[str, str]) -> str:
    """Render one scenario: targets as rows."""
    mine = [leg for leg in legs if leg.scenario == scenario.name]
    columns = _COLUMNS[scenario.name]
    lines = [f"### {scenario.title}", "", row("target", *columns), row("---", *("---:" for _ in columns))]
    direct = [leg for leg in mine if leg.target == DIRECT]
    for name in dict.fromkeys(leg.target for leg in mine):
        rounds = [leg for leg in mine if leg.target == name]
        middle = median_leg(rounds)
        lines.append(row(name, *(cell(middle, rounds, direct) for cell in columns.values())))
    lines += [
        row(name, f"not measured: {why}", *("" for _ in list(columns)[1:]))
        for name, why in unavailable.items()
    ]
    return "\n".join(lines)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines by these."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def middle(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return the median of what the rows have under a name."""
    return float(statistics.median(row[name] for row in rows))


def round_ratio(
    mine: Sequence[Mapping[str, Any]],
    legs: Sequence[Mapping[str, Any]],
    other: str,
    name: str = "tokens_per_second",
) -> str:
    """Return the median over the rounds of the ratio to another target's leg of the same round."""
    base = {leg["round"]: leg[name] for leg in legs if leg["target"] == other}
    found = [leg[name] / base[leg["round"]] for leg in mine if base.get(leg["round"])]
    return f"{statistics.median(found):.2f}" if found else "-"


def write_into(document: Path, text: str, name: str) -> None:
    """Replace what stands between the markers of a name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = document.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def rows_in(document: Path, name: str) -> dict[str, str]:
    """Return the lines of the table between the markers of a name, by their first cell."""
    _, _, rest = document.read_text(encoding="utf-8").partition(f"<!-- {name}:begin -->")
    table = rest.partition(f"<!-- {name}:end -->")[0]
    return {line.split(" | ")[0][2:]: line for line in table.splitlines() if line.startswith("| ")}


def verdict(faults: Sequence[str]) -> str:
    """Return the cell that says what was wrong, if anything was."""
    return "**" + faults[0].replace("\n", " ")[:120] + "**" if faults else "none"


def row(*cells: str) -> str:
    """Render one line of a table."""
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def head(columns: str) -> list[str]:
    """Render a table's first two lines; all columns but the first are of numbers."""
    names = columns.split(", ")
    return [row(*names), row("---", *("---:" for _ in names[1:]))]


def _plain(name: str, digits: int = 1) -> Cell:
    def cell(middle: Leg, _: Sequence[Leg], __: Sequence[Leg]) -> str:
        return _number(getattr(middle, name), digits)

    return cell


def _own(name: str, digits: int = 1) -> Cell:
    """A cost of the target's own process, of which direct has none."""
    plain = _plain(name, digits)
    return lambda middle, rounds, direct: "-" if middle.target == DIRECT else plain(middle, rounds, direct)


def _ratio(name: str) -> Cell:
    def cell(middle: Leg, rounds: Sequence[Leg], direct: Sequence[Leg]) -> str:
        base = {leg.round: getattr(leg, name) for leg in direct}
        ratios = [getattr(leg, name) / base[leg.round] for leg in rounds if base.get(leg.round)]
        return f"{statistics.median(ratios):.2f}" if ratios and middle.target != DIRECT else "-"

    return cell


def _added(name: str) -> Cell:
    def cell(middle: Leg, rounds: Sequence[Leg], direct: Sequence[Leg]) -> str:
        base = {leg.round: getattr(leg, name) for leg in direct}
        added = [getattr(leg, name) - base[leg.round] for leg in rounds if leg.round in base]
        return _number(statistics.median(added), 3) if added and middle.target != DIRECT else "-"

    return cell


def _errors(middle: Leg, _: Sequence[Leg], __: Sequence[Leg]) -> str:
    if not middle.errors:
        return "0"
    return f"{middle.errors} of {middle.requests} ({(middle.first_error or '')[:60].strip()})"


def _per_core(middle: Leg, _: Sequence[Leg], __: Sequence[Leg]) -> str:
    """What one core carries at this cost, were every chunk passed on by itself."""
    return _number(1e6 / middle.cpu_us_per_event, 0) if middle.cpu_us_per_event else "-"


def _per_stream(count: int) -> Cell:
    def cell(middle: Leg, _: Sequence[Leg], __: Sequence[Leg]) -> str:
        if middle.target == DIRECT:
            return "-"
        return _number((middle.rss_peak - middle.rss_before) * 1024 / count, 1)

    return cell


def _number(value: float, digits: int) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


_COLUMNS: Mapping[str, Mapping[str, Cell]] = {
    "paced": {
        "CPU µs per chunk": _own("cpu_us_per_event"),
        "chunks/s a core carries": _per_core,
        "chunks/s": _plain("events_per_second", 0),
        "TTFT p50 ms": _plain("ttft_p50"),
        "x direct": _ratio("ttft_p50"),
        "TTFT p99 ms": _plain("ttft_p99"),
        "ITL p50 ms": _plain("itl_p50"),
        "ITL p99 ms": _plain("itl_p99"),
        "x direct ": _ratio("itl_p99"),
        "RSS MiB": _own("rss_peak", 0),
        "errors": _errors,
    },
    "full": {
        "chunks/s": _plain("events_per_second", 0),
        "x direct": _ratio("events_per_second"),
        "CPU µs per chunk": _own("cpu_us_per_event"),
        "share of a core": _own("cpu_share", 2),
        "generator's share": _plain("harness_share", 2),
        "ITL p50 ms": _plain("itl_p50"),
        "ITL p99 ms": _plain("itl_p99"),
        "E2EL p50 ms": _plain("e2el_p50", 0),
        "x direct ": _ratio("e2el_p50"),
        "errors": _errors,
    },
    "single": {
        "TTFT p50 ms": _plain("ttft_p50", 3),
        "added ms": _added("ttft_p50"),
        "TTFT p99 ms": _plain("ttft_p99", 3),
        "CPU µs per request": _own("cpu_us_per_request", 0),
        "errors": _errors,
    },
    "slow": {
        "errors": _errors,
        "TTFT p50 ms": _plain("ttft_p50"),
        "TTFT p99 ms": _plain("ttft_p99"),
        "RSS before MiB": _own("rss_before"),
        "peak MiB": _own("rss_peak"),
        "KiB per stream": _per_stream(2000),
        "after MiB": _own("rss_after"),
        "CPU µs per chunk": _own("cpu_us_per_event"),
    },
    "idle": {
        "errors": _errors,
        "RSS before MiB": _own("rss_before"),
        "with them MiB": _own("rss_peak"),
        "KiB per connection": _per_stream(10_000),
        "after MiB": _own("rss_after"),
        "TTFT p50 ms beside them": _plain("ttft_p50", 3),
    },
}
