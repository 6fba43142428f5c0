"""An engine that is stopped while nobody needs it and started by the next request, over and over.

    .venv/bin/python -m perf.idle_cycles [--cycles 20] [--idle 20] [--frontend both] [--write]
    .venv/bin/python -m perf.idle_cycles --tables     # print those of the rows that are kept

`FRONTEND=rust scripts/setup.sh all` comes first: this needs vLLM and the development tools.

One server (IDLE_STOP_SECONDS from --idle) gets a trickle of streamed requests, every third time two at once, until it
has been stopped --cycles times. They come around the limit: a little before it, at it, while the engine is being
stopped, right after that, and once the standby waits. None may be lost: each must get its whole stream, and the server
may count no failure and no restart. Otherwise this ends with status 1. Seconds to a token run from the request; memory
is the proportional set size (PSS) of all processes of the server, the gateway's included. --write keeps the rows and
writes docs/measured/idle.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil

from perf.bench import machine, tables
from perf.bench.processes import free_port
from perf.start_times import MODEL, SECONDS, Rig, Started, started
from tests.support.program import metric_in, until

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "perf/results/idle.jsonl"
DOCUMENT = ROOT / "docs/measured/idle.md"
AFTER = (None, -0.5, 0.0, None, 0.02, 0.1, None, 0.5, 2.0)
"""Seconds from the limit to the next request; None: once the engine is stopped and a standby waits."""
BODY = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Count to ten."}],
    "max_tokens": 8,
    "stream": True,
}
READY, STOPPING, STANDING_BY, COLD = "ready", "just stopped", "stopped, standby", "stopped, no standby"
_STOPPED = re.compile(r"the engine was stopped in ([\d.]+) s")

Row = Mapping[str, Any]


class Trickle:
    """The requests of one server, and what is read of it."""

    def __init__(self, server: Started, idle: float) -> None:
        self._server, self._idle = server, idle
        self._pool = ThreadPoolExecutor(2)
        self._ended = time.monotonic()

    def metric(self, name: str) -> float:
        return metric_in(self._server.client.get("/metrics").text, name)

    def status(self) -> str:
        return str(self._server.client.get("/healthz").json()["status"])

    def stops(self) -> list[float]:
        """Return how many seconds each stop took that has ended."""
        found = (_STOPPED.search(line) for _, line in list(self._server.lines))
        return [float(one[1]) for one in found if one]

    def memory_bytes(self) -> int:
        """Return the PSS of all processes of the server."""
        total = 0
        for process in self._server.processes():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def wait(self, after: float | None) -> str:
        """Wait until the next request is due; returns what the engine is then."""
        if after is None:
            until(lambda: self.status() == "idle", "the stop", SECONDS)
            until(lambda: len(self.stops()) >= self.metric("gateway_idle_stops_total"), "its end", SECONDS)
            until(lambda: self.metric("gateway_standby_ready"), "a standby", SECONDS)
            return STANDING_BY
        time.sleep(max(0.0, self._ended + self._idle + after - time.monotonic()))
        if self.status() != "idle":
            return READY
        if len(self.stops()) < self.metric("gateway_idle_stops_total"):
            return STOPPING
        if len(self._server.processes()) == 1:
            return COLD
        return STANDING_BY if self.metric("gateway_standby_ready") else STOPPING

    def ask(self, count: int) -> list[dict[str, Any]]:
        """Send so many requests at once; returns what became of each."""
        try:
            return list(self._pool.map(lambda _: self._stream(), range(count)))
        finally:
            self._ended = time.monotonic()

    def _stream(self) -> dict[str, Any]:
        began, first, comments, events, last = time.monotonic(), None, 0, 0, ""
        fault = ""
        try:
            with self._server.client.stream("POST", "/v1/chat/completions", json=BODY) as answer:
                for line in answer.iter_lines():
                    comments += line.startswith(":")
                    if line.startswith("data: "):
                        events, last = events + 1, line
                        if first is None and '"content":"' in line and '"content":""' not in line:
                            first = time.monotonic() - began
                if answer.status_code != 200 or last != "data: [DONE]":
                    fault = f"{answer.status_code}, ends with {last[:200]!r}"
        except httpx2.TransportError as error:
            fault = f"{type(error).__name__} {error}"
        return {"seconds": None if first is None else round(first, 3), "comments": comments, "fault": fault}


def measured(server: Started, cycles: int, idle: float) -> Iterator[dict[str, Any]]:
    """Yield the rows of one server."""
    server.token(server.began)
    trickle = Trickle(server, idle)
    yield {"what": "memory", "when": "ready, no standby yet", "bytes": trickle.memory_bytes()}
    for number, after in enumerate(itertools.cycle(AFTER)):
        state = trickle.wait(after)
        if state == STANDING_BY and after is None:
            yield {"what": "memory", "when": "idle, with a standby", "bytes": trickle.memory_bytes()}
        for row in trickle.ask(2 if number % 3 == 2 else 1):
            yield {"what": "request", "after": after, "engine": state, **row}
        if after is None:
            yield {"what": "memory", "when": "ready again, no standby yet", "bytes": trickle.memory_bytes()}
        if trickle.metric("gateway_idle_stops_total") >= cycles:
            break
    for seconds in trickle.stops():
        yield {"what": "stop", "seconds": seconds}
    for name in ("idle_stops_total", "wake_seconds_count", "engine_restarts_total", "engine_failures_total"):
        yield {"what": "count", "name": f"gateway_{name}", "value": trickle.metric(f"gateway_{name}")}


def faults(rows: Sequence[Row]) -> list[str]:
    """Say what must not have been."""
    found = [f"a request was lost: {row['fault']}" for row in rows if row.get("fault")]
    counts = {row["name"]: row["value"] for row in rows if row["what"] == "count"}
    none = ("gateway_engine_restarts_total", "gateway_engine_failures_total")
    return [*found, *(f"{name} is {counts[name]:g}" for name in none if counts.get(name))]


def markdown(rows: Sequence[Row]) -> str:
    """Return the tables."""
    about = next(row for row in rows if row["what"] == "machine")
    requests = [row for row in rows if row["what"] == "request"]
    counts = {row["name"]: row["value"] for row in rows if row["what"] == "count"}
    lost = [row for row in requests if row["fault"]]
    lines = [
        about["machine"], "",
        f"{len(requests)} requests, {len(lost)} lost; {counts['gateway_idle_stops_total']:.0f} stops, "
        f"{counts['gateway_wake_seconds_count']:.0f} starts, {counts['gateway_engine_restarts_total']:.0f} restarts; "
        f"IDLE_STOP_SECONDS={about['idle']:g}, ENGINE_FRONTEND={about['frontend']}.", "",
        "| seconds | count | median | least | most |", "| --- | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    seconds = {f"to a token, engine {state}": [
        row["seconds"] for row in requests if row["engine"] == state and row["seconds"] is not None
    ] for state in (READY, STANDING_BY, STOPPING, COLD)}  # fmt: skip
    seconds["to stop the engine"] = [row["seconds"] for row in rows if row["what"] == "stop"]
    for title, values in seconds.items():
        if values:
            cells = (f"{value:.2f}" for value in (median(values), min(values), max(values)))
            lines.append(tables.row(title, str(len(values)), *cells))
    lines += ["", "| memory, PSS | readings | MB, median |", "| --- | ---: | ---: |"]
    memory = [row for row in rows if row["what"] == "memory"]
    for when in dict.fromkeys(row["when"] for row in memory):
        values = [row["bytes"] / 1e6 for row in memory if row["when"] == when]
        lines.append(tables.row(when, str(len(values)), f"{median(values):,.0f}"))
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables, and fail if a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--idle", type=float, default=20.0)
    parser.add_argument("--frontend", default="both")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tables", action="store_true")
    arguments = parser.parse_args()
    if arguments.tables:
        print(markdown(tables.read_rows(KEPT)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    about = {"idle": arguments.idle, "frontend": arguments.frontend}
    rows: list[Row] = [{"what": "machine", "machine": machine.describe(), **about}]
    with tempfile.TemporaryDirectory() as folder:
        rig, port = Rig(Path(folder)), free_port()
        environ = rig.settings(arguments.frontend, port) | {"IDLE_STOP_SECONDS": f"{arguments.idle:g}"}
        command = [sys.executable, "-m", "vllm_engine.cli", "serve"]
        with started(command, environ, port, Path(folder)) as server:
            for row in measured(server, arguments.cycles, arguments.idle):
                rows.append(row)
                print(json.dumps(row), flush=True)
    if arguments.write:
        tables.write_rows(KEPT, rows)
        tables.write_into(DOCUMENT, markdown(rows), "idle")
    print(markdown(rows))
    sys.exit("\n".join(faults(rows)) or 0)


if __name__ == "__main__":
    main()
