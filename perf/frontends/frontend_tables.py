"""The tables of a run, from its rows.

python -m perf.frontends.frontend_tables [ROWS.jsonl]    # print them
python -m perf.frontends.frontend_tables --write         # of the run that is kept here, into docs/measured/frontends.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from perf.bench import tables
from perf.frontends.frontend_servers import NAMES, OURS
from perf.frontends.process_roles import ROLES

HERE = Path(__file__).parent
KEPT = HERE / "results/rows.jsonl"
DOCUMENT = HERE.parents[1] / "docs/measured/frontends.md"

NAME = "frontends"
"""Of the place in the document."""

Row = Mapping[str, Any]
Rows = Sequence[Row]

_BASE = "ours-python"
"""What starts are compared with."""
_TITLES = {"chat": "chat completions", "mixed": "one in ten needs the Python frontend"}
_LEGS = (
    "server, rounds, tokens/s, x python, x rust, events/s, TTFT p50 ms, p99, gateway µs/token, Python, Rust, "
    "core, client, all, gateway's share of a core, private MiB, errors"
)


def markdown(rows: Rows) -> str:
    """Return all tables, and which machine they come from."""
    legs = [row for row in rows if row["what"] == "leg"]
    loads = dict.fromkeys((row["streams"], row["pace"], row["mix"]) for row in legs)
    facts = [row["machine"] for row in rows if row["what"] == "machine"]
    parts = [f"Measured {facts[0]}."] if facts else []
    parts += [_load(streams, pace, mix, legs) for streams, pace, mix in loads]
    parts += [_starts([row for row in rows if row["what"] == "start"])]
    parts += [f"Not measured: {row['server']}: {row['error']}" for row in rows if row["what"] == "failed"]
    return "\n\n".join(filter(None, parts)) or "Not measured yet."


def _load(streams: int, pace: float, mix: str, legs: Rows) -> str:
    offered = f"{pace:g} tokens/s each" if pace else "as fast as there are tokens"
    same = [row for row in legs if (row["streams"], row["pace"], row["mix"]) == (streams, pace, mix)]
    lines = [f"### {streams:,} streams, {offered}: {_TITLES[mix]}", "", *tables.head(_LEGS)]
    of = {name: [row for row in same if row["target"] == name] for name in NAMES}
    lines += [tables.row(name, *_cells(name, mine, same)) for name, mine in of.items() if mine]
    return "\n".join(lines)


def _cells(name: str, mine: Rows, legs: Rows) -> Iterator[str]:
    before = OURS if name.startswith(OURS) else ""
    yield str(len(mine))
    yield f"{tables.middle(mine, 'tokens_per_second'):,.0f}"
    yield tables.round_ratio(mine, legs, f"{before}python")
    yield tables.round_ratio(mine, legs, f"{before}rust")
    yield f"{tables.middle(mine, 'events_per_second'):,.0f}"
    yield f"{tables.middle(mine, 'ttft_p50'):,.0f}"
    yield f"{tables.middle(mine, 'ttft_p99'):,.0f}"
    for role in (*ROLES, "generator"):
        used = median(row["cpu_us"].get(role, 0.0) for row in mine)
        yield f"{used:.1f}" if any(role in row["cpu_us"] for row in mine) else "-"
    yield f"{median(sum(row['cpu_us'].values()) for row in mine):.1f}"
    share = median(row["cpu_us"].get("gateway", 0.0) * row["tokens_per_second"] / 1e6 for row in mine)
    yield f"{share:.2f}" if before else "-"
    yield _memory(mine, "private")
    yield str(sum(row["errors"] for row in mine))


def _memory(rows: Rows, kind: str) -> str:
    """Return the memory without the engine core's, which is a mock or the model's."""
    return f"{median(_sum(row, kind) for row in rows):,.0f}"


def _sum(row: Row, kind: str, roles: Sequence[str] = ("gateway", "python", "rust")) -> float:
    return float(sum(row["memory_mib"].get(role, {}).get(kind, 0.0) for role in roles))


def _starts(rows: Rows) -> str:
    if not any(row["server"] == _BASE for row in rows):
        return ""
    head = "server, starts, seconds to a token, x python, gateway MiB (PSS), Python, Rust, core, all, more than python"
    lines = ["### Start and memory with the real engine", "", *tables.head(head)]
    base = [row for row in rows if row["server"] == _BASE]
    for name in sorted(dict.fromkeys(row["server"] for row in rows), key=NAMES.index):
        mine = [row for row in rows if row["server"] == name]
        took, memory = tables.middle(mine, "seconds"), median(_sum(row, "pss", ROLES) for row in mine)
        sizes = (median(_sum(row, "pss", (role,)) for row in mine) for role in ROLES)
        more = memory - median(_sum(row, "pss", ROLES) for row in base)
        cells = [str(len(mine)), f"{took:.2f}", f"{took / tables.middle(base, 'seconds'):.3f}"]
        lines.append(tables.row(name, *cells, *(f"{size:,.0f}" for size in (*sizes, memory, more))))
    return "\n".join(lines)


def write() -> None:
    """Put the tables of the rows that are kept into the document."""
    tables.write_into(DOCUMENT, markdown(tables.read_rows(KEPT)), NAME)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print(markdown(tables.read_rows(Path(*sys.argv[1:]) if sys.argv[1:] else KEPT)))
