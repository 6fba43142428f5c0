"""One model over two nodes: how long it takes to start, to notice each loss without a request, and to come back.

    .venv/bin/python -m perf.two_nodes [--rounds 3] [--write]
    .venv/bin/python -m perf.two_nodes --tables       # print those of the rows that are kept

Needs root and iproute2, vLLM (`make setup`), and a quiet machine. The nodes are two network namespaces on this machine,
joined by a switch: a head (`vllm-engine serve`) and a worker (`vllm-engine worker`) with the real vLLM on CPU, tensor
parallel 2, and a small model with made-up weights. All settings that are not about the nodes have their defaults.

*Noticed* is counted from the loss until the head counts it as one (for a loss of the head itself: until the worker is no
longer ready), without any request. *Back* is counted from then, or from the moment at which the program or the link is there
again, until a request is answered that was sent at once. --write keeps the rows and writes docs/measured/nodes.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

import httpx2

from perf.bench import machine, tables
from tests.support.nodes.node_group import START_SECONDS, NodeGroup, node_group
from tests.support.nodes.node_losses import NODE_LOSSES, NodeLoss

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "perf/results/two_nodes.jsonl"
DOCUMENT = ROOT / "docs/measured/nodes.md"
ENGINE_PYTHON = Path(os.environ.get("ENGINE_PYTHON") or ROOT / ".venv-engine/bin/python")
CACHE_DIR = Path(os.environ.get("CACHE_DIR") or ROOT / ".cache")
POLL_SECONDS = 0.02

Row = dict[str, Any]


def main() -> None:
    """Measure, print, and keep if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="keep the rows, write docs/measured/nodes.md")
    parser.add_argument("--tables", action="store_true", help="print the tables of the rows that are kept")
    arguments = parser.parse_args()
    if arguments.tables:
        rows: Sequence[Row] = tables.read_rows(KEPT)
    else:
        rows = [{"kind": "machine", "text": machine.describe()}]
        for number in range(arguments.rounds):
            for row in measured_round():
                rows = [*rows, {"round": number} | row]
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    text = rendered(rows)
    print(text)
    if arguments.write:
        tables.write_rows(KEPT, rows)
        tables.write_into(DOCUMENT, text, "nodes")


def measured_round() -> Iterator[Row]:
    """Start both nodes, and lose each part once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),  # the programs' logs
        node_group(ENGINE_PYTHON, Path(folder), CACHE_DIR) as group,
    ):
        began = time.monotonic()
        until(lambda: is_ready(group))
        yield {"kind": "start", "name": "both ready", "seconds": time.monotonic() - began}
        for name in ("first request after readiness", "second request"):
            began = time.monotonic()
            assert group.ask(max_tokens=1), "no answer"
            yield {"kind": "start", "name": name, "seconds": time.monotonic() - began}
        for node, program in (("head", group.head), ("worker", group.worker)):
            yield {"kind": "memory", "name": node, "bytes": group.memory(program)}
        for loss in NODE_LOSSES:
            yield lost(group, loss)


def lost(group: NodeGroup, loss: NodeLoss) -> Row:
    """Lose something while nobody asks anything, and ask once that is noticed."""
    until(lambda: is_ready(group))
    noticed = loss.watch(group)
    began = time.monotonic()
    loss.harm(group)
    until(noticed)
    seen = time.monotonic()
    loss.restore(group)
    until(lambda: answered(group))
    return {"kind": "loss", "name": loss.name, "noticed": seen - began, "back": time.monotonic() - seen}


def is_ready(group: NodeGroup) -> bool:
    """Whether both nodes say so."""
    return all(
        (health or {}).get("status") == "ready" for health in (group.head.health(), group.worker_health())
    )


def answered(group: NodeGroup) -> bool:
    """Whether a request is answered; it waits while the engine starts again."""
    try:
        return group.ask(max_tokens=1) is not None
    except httpx2.TransportError:
        return False  # the head's program is not there yet


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end, f"nothing after {START_SECONDS:g} s"
        time.sleep(POLL_SECONDS)


def rendered(rows: Sequence[Row]) -> str:
    """Return the tables, below the machine."""
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in ("start", "memory", "loss")}
    lines = [next(row["text"] for row in rows if row["kind"] == "machine"), ""]
    lines += ["| start | seconds |", "| --- | ---: |"]
    lines += [f"| {name} | {_middle(group, 'seconds')} |" for name, group in _named(of["start"])]
    lines += ["", "| node | memory, MiB |", "| --- | ---: |"]
    lines += [f"| {name} | {_middle(group, 'bytes', 1 << 20, 0)} |" for name, group in _named(of["memory"])]
    lines += ["", "| lost while idle | noticed after, s | back after, s |", "| --- | ---: | ---: |"]
    lines += [
        f"| {name} | {_middle(group, 'noticed')} | {_middle(group, 'back')} |"
        for name, group in _named(of["loss"])
    ]
    return "\n".join(lines)


def _named(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for name in dict.fromkeys(row["name"] for row in rows):
        yield name, [row for row in rows if row["name"] == name]


def _middle(rows: Sequence[Row], key: str, unit: float = 1.0, digits: int = 1) -> str:
    """Return the median, and from where to where the rounds lie."""
    values = sorted(row[key] / unit for row in rows)
    return f"{median(values):.{digits}f} ({values[0]:.{digits}f} to {values[-1]:.{digits}f})"


if __name__ == "__main__":
    main()
