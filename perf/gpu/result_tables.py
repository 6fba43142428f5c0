"""The tables of a run, from its rows.

python -m perf.gpu.result_tables [ROWS.jsonl]       # print them
python -m perf.gpu.result_tables --write            # put those of the run that is kept here into docs/measured/gpu.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from perf.bench import tables

HERE = Path(__file__).parent
KEPT = HERE / "results/h100-2026-11-26.jsonl"
DOCUMENT = HERE.parents[1] / "docs/measured/gpu.md"

Row = Mapping[str, Any]
Rows = Sequence[Row]

PLAIN = "vllm"
STARTS = ("cold start", "warm start", "recovery")
"""What is timed with nothing beside it."""
_BEHIND = {
    "ours": "vllm",
    "ours-4": "vllm-4",
    "ours-rust": "rust",
    "nginx-vllm": "vllm",
    "nginx-rust": "rust",
}
"""The server that has the same frontend, asked directly."""


def markdown(rows: Rows) -> str:
    """Return all tables."""
    legs = [row for row in rows if row["what"] == "leg"]
    streams = sorted({row["streams"] for row in legs})
    loads = [_load([row for row in legs if row["streams"] == count]) for count in streams]
    return "\n\n".join(filter(None, [_starts(rows), *loads, _failures(rows)]))


def _table(head: str, texts: int, rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; `texts` columns come before those of numbers."""
    columns = head.split(", ")
    aligned = ["---"] * texts + ["---:"] * (len(columns) - texts)
    return [tables.row(*cells) for cells in (columns, aligned, *rows)]


def _starts(rows: Rows) -> str:
    timed = [row for row in rows if row["what"] in STARTS]
    base = [row["seconds"] for row in timed if row["what"] == "warm start" and row["server"] == PLAIN]

    def cells(row: Row) -> Sequence[str]:
        ratio = f"{row['seconds'] / base[0]:.2f}" if base else "-"
        return row["what"], row["server"], f"{row['seconds']:.1f}", ratio

    head = f"what, server, seconds to a token, x {PLAIN}'s warm start"
    return "\n".join(_table(head, 2, map(cells, timed))) if timed else ""


def _load(legs: Rows) -> str:
    streams = legs[0]["streams"]
    head = f"target, rounds, tokens/s, x {PLAIN}, x direct, TTFT p50 ms, p99, ITL p50 ms, p99, "
    head += "in front, frontend, engine, errors"
    targets = sorted({row["target"] for row in legs}, key=lambda name: (_BEHIND.get(name, name), name))
    lines = _table(head, 1, (list(_cells(target, legs)) for target in targets))
    return "\n".join([f"### {streams} stream{'s' if streams > 1 else ''}", "", *lines])


def _cells(target: str, legs: Rows) -> Iterator[str]:
    mine = [row for row in legs if row["target"] == target]
    yield target
    yield str(len(mine))
    yield f"{median(row['tokens_per_second'] for row in mine):,.0f}"
    yield tables.round_ratio(mine, legs, PLAIN)
    yield tables.round_ratio(mine, legs, _BEHIND.get(target, ""))
    for name in ("ttft_p50", "ttft_p99", "itl_p50", "itl_p99"):
        yield f"{median(row[name] for row in mine):.4g}"
    for kinds in (("gateway", "proxy"), ("frontend",), ("engine",)):
        used = [row["cpu_us"][kind] for row in mine for kind in kinds if kind in row["cpu_us"]]
        yield f"{median(used):.1f}" if used else "-"
    yield str(sum(row["errors"] for row in mine))


def _failures(rows: Rows) -> str:
    cases = [row for row in rows if row["what"] == "failure"]

    def cells(row: Row) -> Sequence[str]:
        right, peak = "yes" if row["is_right"] else "no", f"{row['gpu_peak_gib'] or 0:.1f}"
        found = (row["name"], row["program"], f"`{row['diagnosed']}`", right)
        return *found, str(row["exit_status"]), f"{row['seconds']:.1f}", peak

    head = "case, program, diagnosis, as expected, exit status, seconds, GPU peak GiB"
    return "\n".join(["### Failures", "", *_table(head, 4, map(cells, cases))]) if cases else ""


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        tables.write_into(DOCUMENT, markdown(tables.read_rows(KEPT)), "gpu")
    else:
        print(markdown(tables.read_rows(Path(*sys.argv[1:]) if sys.argv[1:] else KEPT)))
