"""Time to ready: a fresh start of plain `vllm serve` beside a restart of ours, with and without a standby.

    .venv/bin/python -m perf.restart_times [--rounds 2] [--rows restart-times.jsonl]

Each round starts vLLM by itself, then our program twice, and kills the engine of each. Plain `vllm serve` runs with
the very command, environment and caches that our program gives it. Times run from the start of the process (from the
kill of EngineCore) until one token has been generated. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import psutil

from tests.support.program import Program, free_port, running, until

ROOT = Path(__file__).parents[1]
MODEL = "bundled:smollm2-135m-instruct"
SECONDS = 400.0


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            for what, seconds in one_round(Path(folder)):
                rows.append({"round": number, "what": what, "seconds": round(seconds, 2)})
                print(json.dumps(rows[-1]), flush=True)
    if arguments.rows:
        arguments.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))


def one_round(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield what was measured, and its seconds."""
    command: list[str] = []
    environ: dict[str, str] = {}
    for standby in ("0", "1"):
        with started(folder, standby) as (program, seconds):
            yield f"our first start, STANDBY={standby}", seconds
            if standby == "0":
                leader = engine_core(program).parent() or psutil.Process()
                command, environ = leader.cmdline(), leader.environ()
            else:
                until(lambda: "a standby is ready" in program.log(), "a standby", SECONDS)
            yield f"our restart, STANDBY={standby}", restart(program)
    yield "plain vllm serve", plain(folder, command, environ)


@contextlib.contextmanager
def started(folder: Path, standby: str) -> Iterator[tuple[Program, float]]:
    """Run our program until it is ready."""
    environ = {
        "ENGINE_PYTHON": os.environ.get("ENGINE_PYTHON") or str(ROOT / ".venv-engine/bin/python"),
        "CACHE_DIR": os.environ.get("CACHE_DIR") or str(ROOT / ".cache"),
        "MODEL_ID": os.environ.get("MODEL_ID") or MODEL,
        "STANDBY": standby,
    }
    began = time.monotonic()
    with running(environ, folder=folder) as program:
        program.until_ready(SECONDS)
        yield program, time.monotonic() - began


def engine_core(program: Program) -> psutil.Process:
    """Return the engine core."""
    return next(one for one in program.processes() if one.name().startswith("VLLM::EngineCor"))


def restart(program: Program) -> float:
    """Kill the engine core; return the seconds until a token comes again."""
    model = program.client.get("/v1/models").json()["data"][0]["id"]
    began = time.monotonic()
    with program.loses_engine():
        engine_core(program).kill()
    # Waits in the gateway until the engine is back.
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    answer = program.client.post("/v1/completions", json=body, timeout=SECONDS)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began


def plain(folder: Path, command: list[str], environ: dict[str, str]) -> float:
    """Start vLLM by itself on a port; return the seconds until a token comes."""
    port = free_port()
    place = command.index("--uds")
    command = [*command[:place], *command[place + 2 :], "--host", "127.0.0.1", "--port", str(port)]
    model = command[command.index("--served-model-name") + 1]
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    with (
        (folder / "plain.log").open("wb") as log,
        httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        began = time.monotonic()
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)

        def answers() -> bool:
            assert process.poll() is None, (folder / "plain.log").read_text(errors="replace")
            with contextlib.suppress(httpx2.TransportError):
                return client.post("/v1/completions", json=body, timeout=60).status_code == 200
            return False

        try:
            until(answers, "an answer", SECONDS)
            return time.monotonic() - began
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of medians, and their ratio to plain vLLM's."""
    kinds = list(dict.fromkeys(row["what"] for row in rows))
    medians = {kind: median(row["seconds"] for row in rows if row["what"] == kind) for kind in kinds}
    base = medians["plain vllm serve"]
    lines = ["| what | seconds to the first token | ratio |", "| --- | --- | --- |"]
    lines += [f"| {kind} | {value:.1f} | {value / base:.2f} |" for kind, value in medians.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
