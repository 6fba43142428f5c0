"""The tables of a run, from its rows.

python -m perf.replicas.router_tables [ROWS.jsonl]    # print them
python -m perf.replicas.router_tables --write         # of the run that is kept here, into docs/measured/replicas.md
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.bench import tables
from perf.replicas.router_cost import DIRECT, LOADS, TARGETS

HERE = Path(__file__).parent
KEPT = HERE / "results/rows.jsonl"
DOCUMENT = HERE.parents[1] / "docs/measured/replicas.md"
NAME = "replicas"
"""Of the place in the document."""

Rows = Sequence[Mapping[str, Any]]

_COST = "target, rounds, tokens/s, x direct, TTFT p50 ms, x direct, p99, ITL p99 ms, router µs/token, gateways µs/token, errors"
_RESTARTS = (
    "policy, what was done, clients, seconds, answered, truncated, lost before they began, router's retries"
)


def markdown(rows: Rows) -> str:
    """Return all tables, and which machine they come from."""
    facts = [row["machine"] for row in rows if row["what"] == "machine"]
    parts = [f"Measured {facts[0]}."] if facts else []
    for load, pace in LOADS.items():
        parts.append(_cost([row for row in rows if row["what"] == "cost" and row["load"] == load], pace))
    parts.append(_restarts([row for row in rows if row["what"] == "restart"]))
    return "\n\n".join(filter(None, parts)) or "Not measured yet."


def _cost(rows: Rows, pace: float) -> str:
    if not rows:
        return ""
    offered = f"up to {pace:g} tokens/s each"
    lines = [f"### {rows[0]['streams']} streams, {offered}", "", *tables.head(_COST)]
    for name in TARGETS:
        mine = [row for row in rows if row["target"] == name]
        if not mine:
            continue
        lines.append(
            tables.row(
                name,
                str(len(mine)),
                f"{tables.middle(mine, 'tokens_per_second'):,.0f}",
                tables.round_ratio(mine, rows, DIRECT, "tokens_per_second"),
                f"{tables.middle(mine, 'ttft_p50'):.1f}",
                tables.round_ratio(mine, rows, DIRECT, "ttft_p50"),
                f"{tables.middle(mine, 'ttft_p99'):.1f}",
                f"{tables.middle(mine, 'itl_p99'):.1f}",
                "-" if name == DIRECT else f"{tables.middle(mine, 'router_us_per_token'):.1f}",
                f"{tables.middle(mine, 'gateways_us_per_token'):.1f}",
                str(sum(row["errors"] for row in mine)),
            )
        )
    return "\n".join(lines)


def _restarts(rows: Rows) -> str:
    if not rows:
        return ""
    lines = ["### Two real engines: one killed, then both restarted in turn", "", *tables.head(_RESTARTS)]
    names = ("policy", "done", "clients", "seconds", "whole", "truncated", "refused", "retries")
    lines += [tables.row(*(str(row[name]) for name in names)) for row in rows]
    return "\n".join(lines)


def write() -> None:
    """Put the tables of the rows that are kept into the document."""
    tables.write_into(DOCUMENT, markdown(tables.read_rows(KEPT)), NAME)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print(markdown(tables.read_rows(Path(*sys.argv[1:]) if sys.argv[1:] else KEPT)))
