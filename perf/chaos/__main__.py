"""The chaos suite with the real vLLM; writes its table into docs/measured/reliability.md.

    .venv/bin/python -m perf.chaos [--only NAME ...] [--write] [--standby 1] [--frontend both]

Each case: requests run, something is done to the engine, and then every request must have ended as docs/operate/lifecycle.md
says, none that had not begun may have failed, all are counted, and no process, file or memory is left behind. With both
of vLLM's frontends every second request goes to the Python frontend. Takes about half an hour on two cores. The disk cases mount a tmpfs, so they need root; without it they are NOT TESTED.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from perf.bench.machine import describe
from perf.bench.tables import verdict, write_into
from perf.chaos import harm
from perf.chaos.case import Case, Result, play, play_sigterm
from perf.chaos.harm import Rig
from tests.support.program import running, until

ROOT = Path(__file__).parents[2]
BOTH = "both"
MODEL = "bundled:smollm2-135m-instruct"
START_SECONDS = 400.0
DOCUMENT = ROOT / "docs/measured/reliability.md"
CASES = (
    Case("SIGKILL of the API process", harm.kill_leader),
    Case("SIGKILL of EngineCore", harm.kill_core),
    Case("SIGKILL of the worker", harm.kill_worker),
    Case("SIGKILL during prefill", harm.kill_core, words=250, begun=0),
    Case("SIGKILL during 32 streams", harm.kill_core, streams=32, wholes=0, begun=32),
    Case("SIGSTOP of EngineCore", harm.stop_core, notice=None),
    Case("socket removed", harm.remove_socket, notice=1.5),
    Case("worker's address space limited", harm.limit_memory, words=250, notice=None, may_live=True),
    Case("storm of clients that leave", None, streams=96, wholes=32, begun=0, leave=3),
    Case("ten kills in a row", harm.kill_core, times=10, tokens=600),
)
CASES_OF_BOTH = (
    Case("SIGKILL of the Rust frontend", harm.kill_rust),
    Case("SIGKILL of the Rust frontend during prefill", harm.kill_rust, words=250, begun=0),
    Case("SIGSTOP of the Rust frontend", harm.stop_rust, notice=None),
    Case("SIGSTOP of the API process", harm.stop_leader, notice=None),
    Case("Rust frontend's socket removed", harm.remove_rust_socket, notice=1.5),
)
DISK_CASES = (
    Case("cache's disk full, SIGKILL", harm.kill_core, beforehand=harm.fill_disk),
    Case("cache read-only, SIGKILL", harm.kill_core, beforehand=harm.close_disk),
)


def main() -> None:
    """Run the cases, print and perhaps write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="*", help="cases whose name holds one of these words")
    parser.add_argument("--standby", default="1", choices=("0", "1"))
    parser.add_argument("--frontend", default="both", choices=("both", "python", "rust"))
    parser.add_argument("--write", action="store_true", help="write docs/measured/reliability.md")
    parser.add_argument("--rows", type=Path, help="add the results to this file of JSON lines")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    results = []
    for result in every_result(arguments.standby, arguments.only, arguments.frontend):
        print(row(result), *result.faults, sep="\n  ", flush=True)
        results.append(result)
        if arguments.rows:
            with arguments.rows.open("a") as rows:
                rows.write(json.dumps(vars(result)) + "\n")
    if arguments.write:
        write(results, arguments.frontend)
    sys.exit(any(result.faults for result in results))


def every_result(standby: str, only: list[str] | None, frontend: str) -> Iterator[Result]:
    """Play the cases, as many as can in one program."""

    def chosen(name: str) -> bool:
        return not only or any(word in name for word in only)

    cache = Path(os.environ.get("CACHE_DIR") or ROOT / ".cache")
    every = CASES + (CASES_OF_BOTH if frontend == BOTH else ())
    if cases := [case for case in every if chosen(case.name)]:
        with rig(cache, standby, frontend) as one:
            for case in cases:
                yield guarded(case, one, standby)
    for case in DISK_CASES:
        if chosen(case.name):
            with small_disk(cache) as disk:
                if disk is None:
                    print(f"NOT TESTED: {case.name}: a tmpfs cannot be mounted here")
                    continue
                with rig(disk, standby, frontend) as one:
                    yield guarded(case, one, standby)
    if chosen("SIGTERM under 64 streams"):
        with rig(cache, standby, frontend, DRAIN_TIMEOUT_SECONDS="120") as one:
            yield play_sigterm(one, 64, 64, 8, START_SECONDS)


def guarded(case: Case, one: Rig, standby: str) -> Result:
    """Play a case, once the standby waits; one that comes to no end has that for its fault."""

    def is_settled() -> bool:
        return f"gateway_standby_ready {standby}" in one.program.client.get("/metrics").text

    try:
        until(is_settled, f"gateway_standby_ready {standby}", START_SECONDS)
        return play(case, one, START_SECONDS)
    except AssertionError as error:
        return Result(case.name, faults=[str(error)[-2000:]])


@contextmanager
def rig(cache: Path, standby: str, frontend: str, **variables: str) -> Iterator[Rig]:
    """Run our program with the real engine until it is ready."""
    environ = {
        "ENGINE_PYTHON": os.environ.get("ENGINE_PYTHON") or str(ROOT / ".venv-engine/bin/python"),
        "CACHE_DIR": str(cache),
        "MODEL_ID": MODEL,
        "STANDBY": standby,
        "ENGINE_FRONTEND": frontend,
        "HANG_TIMEOUT_SECONDS": "20",
        "MAX_RESTARTS": "100",
        "RESTART_WINDOW_SECONDS": "1",
        "LOG_LEVEL": "warning",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        running(environ | variables, folder=Path(folder)) as program,
    ):
        program.until_ready(START_SECONDS)
        runs = program.client.get("/version").json()["frontend"]
        if runs != frontend:
            raise SystemExit(f"the engine serves with the frontend {runs}, not {frontend}: see --frontend")
        yield Rig(program, MODEL, Path(folder), cache, has_both=frontend == BOTH)


@contextmanager
def small_disk(cache: Path) -> Iterator[Path | None]:
    """A disk of its own with a copy of the cache on it and a little room; None where none can be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", folder], capture_output=True)
        if done.returncode:
            yield None
            return
        try:
            shutil.copytree(cache / "bundled", Path(folder) / "bundled")
            yield Path(folder)
        finally:
            with suppress(subprocess.SubprocessError):
                subprocess.run(["umount", "--lazy", folder], check=True)


def row(result: Result) -> str:
    """Return a row of the table."""
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(result.outcomes.items()))
    seconds = [_seconds(result.noticed_seconds, 2), _seconds(result.back_seconds, 1)]
    return f"| {result.name} | {result.requests} | {outcomes} | {seconds[0]} | {seconds[1]} | {verdict(result.faults)} |"


def _seconds(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def write(results: list[Result], frontend: str) -> None:
    """Put the table into the document."""
    lines = [
        f"Made by `perf/chaos/__main__.py --write --frontend {frontend}` on this machine: {describe()}.",
        "",
        "| what is done | requests | how they ended | noticed after s | serves again after s | faults |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(row, results),
    ]
    write_into(DOCUMENT, "\n".join(lines), "chaos")


if __name__ == "__main__":
    main()
