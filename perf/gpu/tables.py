"""The tables of a run, from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

Rows = Sequence[Mapping[str, Any]]
_CPU = ("gateway", "proxy", "frontend", "engine", "generator")


def markdown(rows: Rows) -> str:
    """Return all tables."""
    legs = [row for row in rows if row["what"] == "leg"]
    streams = sorted({row["streams"] for row in legs})
    tables = [_starts(rows), *(_load([row for row in legs if row["streams"] == count]) for count in streams)]
    return "\n\n".join(filter(None, tables))


def _starts(rows: Rows) -> str:
    timed = [row for row in rows if row["what"] != "leg" and "seconds" in row]
    base = [row["seconds"] for row in timed if row["what"] == "warm start" and row["server"] == "vllm"]
    lines = ["| what | server | seconds to a token | x plain warm start |", "| --- | --- | ---: | ---: |"]
    for row in timed:
        ratio = f"{row['seconds'] / base[0]:.2f}" if base else "-"
        lines.append(f"| {row['what']} | {row['server']} | {row['seconds']:.1f} | {ratio} |")
    return "\n".join(lines) if timed else ""


def _load(legs: Rows) -> str:
    rounds = len({row["round"] for row in legs})
    head = "| target | rounds | tokens/s | x vllm | TTFT p50 ms | p99 | ITL p50 ms | p99 | " + " | ".join(
        _CPU
    )
    lines = [
        f"{legs[0]['streams']} streams, medians of at most {rounds} round(s); CPU in µs a token",
        "",
        f"{head} | errors |",
        "| --- |" + " ---: |" * (8 + len(_CPU)),
    ]
    targets = dict.fromkeys(row["target"] for row in legs)
    return "\n".join([*lines, *("| " + " | ".join(_cells(target, legs)) + " |" for target in targets)])


def _cells(target: str, legs: Rows) -> Iterator[str]:
    mine = [row for row in legs if row["target"] == target]
    plain = {row["round"]: row["tokens_per_second"] for row in legs if row["target"] == "vllm"}
    ratios = [row["tokens_per_second"] / plain[row["round"]] for row in mine if row["round"] in plain]
    yield target
    yield str(len(mine))
    yield f"{median(row['tokens_per_second'] for row in mine):,.0f}"
    yield f"{median(ratios):.2f}" if ratios else "-"
    for name in ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99"):
        yield f"{median(row[name] for row in mine):.4g}"
    for kind in _CPU:
        used = [row["cpu_us"][kind] for row in mine if kind in row["cpu_us"]]
        yield f"{median(used):.1f}" if used else "-"
    yield str(sum(row["errors"] for row in mine))
