"""Measures vllm-router in front of replicas; see docs/measured/replicas.md.

    python -m perf.replicas RESULTS --write              what it costs, and a kill and restarts with two real engines
    python -m perf.replicas RESULTS --steps cost --rounds 3

RESULTS is a new folder: rows.jsonl (a line for each leg and phase) and all logs. `make setup` comes first, for the engines. Exits
with status 1 if a request was lost before it began, a restart truncated one, or a leg had errors.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.bench import machine
from perf.frontends.frontend_rows import Rows
from perf.replicas import router_cost, router_restarts, router_tables
from vllm_engine.system.file_limit import raise_file_limit

STEPS = ("cost", "restarts")


def main(words: Sequence[str] | None = None) -> int:
    """Run the steps; returns 1 if anything failed."""
    options = parse(words)
    # As an exception it unwinds, and ends what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_file_limit()
    folder = options.results.absolute()
    rows = Rows(folder)
    rows.add({"what": "machine", "machine": machine.describe()})
    if "cost" in options.steps:
        router_cost.measure(rows, folder / "cost", options.rounds, options.streams, options.seconds)
    if "restarts" in options.steps:
        (folder / "restarts").mkdir()
        router_restarts.measure(rows, folder / "restarts", options.clients)
    print(router_tables.markdown(rows.all))
    if options.write:
        router_tables.KEPT.parent.mkdir(exist_ok=True)
        shutil.copyfile(rows.path, router_tables.KEPT)
        router_tables.write()
    return int(any(map(is_fault, rows.all)))


def is_fault(row: Mapping[str, Any]) -> bool:
    """Whether a row has what must not be; a kill may truncate what had begun."""
    is_kill = "killed" in str(row.get("done"))
    return bool(row.get("errors") or row.get("refused") or (row.get("truncated") and not is_kill))


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the options; of a wrong one, prints what was expected and exits with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.replicas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", type=Path, help="a new folder")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--rounds", type=int, default=5, help="of the cost (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="about how long each leg is (%(default)s)")
    parser.add_argument("--streams", type=int, default=128, help="at once, for the cost (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="at once, for the restarts (%(default)s)")
    parser.add_argument("--write", action="store_true", help="keep the rows here, and write the document")
    options = parser.parse_args(words)
    if (options.results / "rows.jsonl").exists():
        parser.error(f"RESULTS: {str(options.results)!r} has an earlier run's rows; expected a new folder")
    return options


if __name__ == "__main__":
    sys.exit(main())
