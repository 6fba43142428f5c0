"""Storms of clients that mean harm, by real tools, against the running program; writes its table into docs/operate/security.md.

    .venv/bin/python -m perf.storms [--only WORD ...] [--write]

While each storm runs, `/livez` must answer within half a second (99th percentile), other clients' chats must be answered,
memory must stay within its bound, and the engine must not be blamed. The tools are Debian's: `tools/debian.sh
slowhttptest:slowhttptest hey:hey httperf:httperf iptables:iptables`. The engine is the tests' fake one. Takes about a quarter
of an hour.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from perf.bench.machine import describe
from perf.bench.tables import rows_in, verdict, write_into
from perf.storms.storm import STORMS, Result, Storm, health_port, play
from perf.storms.watch import percentile
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.model import LONG_CONFIG, make_model
from tests.support.program import running
from vllm_engine.system.file_limit import raise_file_limit

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/operate/security.md"
_SCENARIO = {"tokens": 900_000, "max_running": 10_000}


def main() -> None:
    """Run the storms, print and perhaps write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", help="storms whose name holds one of these words")
    parser.add_argument("--write", action="store_true", help="write docs/operate/security.md")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    # The clients need more files than most shells allow.
    raise_file_limit()
    results = []
    for storm in STORMS:
        if arguments.only and not any(word in storm.name for word in arguments.only):
            continue
        if missing := untried(storm):
            print(f"NOT TESTED: {storm.name}: {missing}")
            continue
        result = guarded(storm)
        print(row(result), *result.faults[:5], sep="\n  ", flush=True)
        results.append(result)
    if arguments.write:
        write(results)
    sys.exit(any(result.faults for result in results))


def untried(storm: Storm) -> str:
    """Say what a storm lacks here, if anything."""
    missing = sorted(tool for tool in storm.tools if not shutil.which(tool))
    if missing:
        return f"no {', '.join(missing)}"
    return "needs root" if "iptables" in storm.tools and os.geteuid() else ""


def guarded(storm: Storm) -> Result:
    """Play a storm on a program of its own; one that comes to no end has that for its fault."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = health_port(storm)
        environ = {
            "ENGINE_PYTHON": str(make_fake_engine_python(folder / "engine", {**_SCENARIO, **storm.scenario})),
            "MODEL_ID": str(make_model(folder / "model", LONG_CONFIG)),
            "MAX_MODEL_LEN": "1000000",
            "LOG_LEVEL": "error",
            # A blamed engine shall be seen to be, and not end the storm.
            "MAX_RESTARTS": "100",
            "METRICS_CACHE_SECONDS": "1",  # the default, which tests have otherwise
            **({"HEALTH_PORT": str(port)} if port else {}),
            **storm.variables,
        }
        wrapper = ("prlimit", f"--nofile={storm.nofile}", "--") if storm.nofile else ()
        try:
            with running(environ, folder=folder, wrapper=wrapper) as program:
                program.until_ready()
                return play(storm, program, port or program.port)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this storm's result
            return Result(storm.name, [], [], 0, 0, 0, [f"{type(error).__name__}: {error}"[:2000]])


def row(result: Result) -> str:
    """Return a row of the table."""
    livez = [f"{1000 * percentile(result.livez, share):.0f}" for share in (0.5, 0.99)]
    chats = f"{len(result.chats)}, {percentile(result.chats, 0.99):.2f}"
    memory = f"{result.rss_before >> 20} → {result.rss_most >> 20}"
    return f"| {result.name} | {livez[0]}, {livez[1]} | {chats} | {memory} | {result.restarts} | {verdict(result.faults)} |"


def write(results: list[Result]) -> None:
    """Put the table into the document; rows of storms that were not played stay."""
    rows = rows_in(DOCUMENT, "storms") | {result.name: row(result) for result in results}
    lines = [
        f"Made by `perf/storms/__main__.py --write` on this machine: {describe()}.",
        "",
        "| storm | `/livez` p50, p99 ms | other clients' chats, p99 s | RSS MiB | engine restarts | faults |",
        "| --- | --- | --- | --- | --- | --- |",
        *(rows[storm.name] for storm in STORMS if storm.name in rows),
    ]
    write_into(DOCUMENT, "\n".join(lines), "storms")


if __name__ == "__main__":
    main()
