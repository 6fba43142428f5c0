"""Provoke the CUDA failures of the catalogue with the real vLLM, record them, and see what we make of them.

    python -m perf.gpu.failures --engine-python P --model FOLDER --out FOLDER [--only NAME …]

`vllm serve` and, where it makes sense, `vllm-engine serve` are started with settings that cannot work; each has to end by
itself. All import at the same time, which takes most of a start. Cases that neither need much memory nor mind others
go on at once (stage 0): what they ask for is larger than any GPU, so it fails at once and is never held. The others
are stopped by SIGSTOP before they touch the GPU, and go on stage by stage, when those before them have ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.bench.processes import free_port
from perf.gpu.failure_cases import Case, cases, explain, facts_of, our_environ, vllm_command, write_model
from perf.gpu.memory import total_and_free
from perf.gpu.result_tables import markdown
from perf.gpu.servers import launch
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.system.sizes import GIB

HELD_AT = "Initializing a V1 LLM engine"
"""The engine's last line before it creates a CUDA context (0.26)."""
MEASURED_AT = ("Loading model from scratch", "Starting to load model")
"""The first lines after vLLM has measured the free memory (model runner V2, V1)."""
START_SHARE = 0.6
"""Of all the time: for imports, and what follows in stage 0."""
STAGE_SHARE = 1 / 6
"""Of all the time: for a later case, from when it goes on."""
STOP_SECONDS = 5.0
"""For our program, whose engine is not of its group, to end it when it is told to."""
SETTLE_SECONDS = 0.5
"""From the end of a stage to the next, for the driver to take back memory."""
HOG_SHARE = 0.25
HOG = """
import sys, time, torch
x = torch.zeros(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
torch.cuda.synchronize()
time.sleep(600)
"""
"""Another program that uses the GPU."""


class Run:
    """A case that runs."""

    def __init__(self, case: Case, command: Sequence[str], environ: Mapping[str, str], out: Path) -> None:
        self.case = case
        self._path = out / case.log
        self._path.unlink(missing_ok=True)
        self._process = launch(command, environ, self._path)  # no .env there
        self._began = time.monotonic()
        self._goes_on: float | None = self._began if case.stage == 0 else None
        self._is_held = self._was_killed = False
        self.seconds = 0.0
        self.peak = 0
        self.status: int | None = None

    @property
    def text(self) -> str:
        return self._path.read_text(encoding="utf-8", errors="replace")

    @property
    def ended_itself(self) -> bool:
        return self.status is not None and not self._was_killed

    @property
    def has_gone_on(self) -> bool:
        return self._goes_on is not None

    @property
    def seconds_on_gpu(self) -> float:
        return max(0.0, self.seconds - ((self._goes_on or self._began) - self._began))

    def has_said(self, *texts: str) -> bool:
        text = self.text
        return any(one in text for one in texts)

    def step(self, may_go_on: bool, began: float, seconds: float) -> bool:
        """Hold it, let it go on, or end it; returns whether it has ended.

        `began` and `seconds` are those of all cases.
        """
        now = time.monotonic()
        if self._goes_on is None and may_go_on:
            self._goes_on = now
            if self._is_held:
                self._signal(signal.SIGCONT)
        elif self._goes_on is None and not self._is_held and self.has_said(HELD_AT):
            self._is_held = True
            self._signal(signal.SIGSTOP)
        due = began + seconds
        if self._goes_on is not None:
            due = min(due, max(began + START_SHARE * seconds, self._goes_on + STAGE_SHARE * seconds))
        self.status = self._process.poll()
        if self.status is None and now < due:
            return False
        self._was_killed = self.status is None
        self.end()
        return True

    def end(self) -> None:
        """Kill what is left of it."""
        if self.case.program == "ours" and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self.status = self._process.wait()
        self.seconds = self.seconds or time.monotonic() - self._began

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def follow(runs: Sequence[Run], hog: subprocess.Popen[bytes], seconds: float) -> None:
    """Let the runs go on, stage by stage, until all have ended."""
    began = time.monotonic()
    active, stage, since = list(runs), 0, 0.0
    try:
        while active:
            lowest = min(run.case.stage for run in active)
            if lowest != stage:
                stage, since = lowest, time.monotonic() + SETTLE_SECONDS
            memory = total_and_free()
            for run in active:
                if memory and run.has_gone_on:
                    run.peak = max(run.peak, memory[0] - memory[1])
                if run.case.hog == "releases" and run.has_gone_on and run.has_said(*MEASURED_AT):
                    hog.kill()
            now = time.monotonic()
            for run in tuple(active):
                may_go_on = run.case.stage <= stage and now >= since + run.case.delay
                if run.step(may_go_on, began, seconds):
                    active.remove(run)
            if not any(run.case.hog for run in active):
                hog.kill()
            time.sleep(0.03)
    finally:
        for run in active:
            run.end()


def run_cases(
    engine_python: Path,
    model: Path,
    environ: Mapping[str, str],
    out: Path,
    flags: Sequence[str],
    *,
    only: Sequence[str] = (),
    seconds: float = 90.0,
) -> list[dict[str, Any]]:
    """Run the cases (`only`: names, or names of logs without `.log`), and write logs and `failures.json` to `out`.

    `environ` is the whole environment of both programs. Nothing else may use the GPU. After so many seconds
    whatever still runs is killed. Returns a row for each: how it ended, and what our diagnosis says of it (of our
    program: what it printed).
    """
    out, model, engine_python = out.absolute(), model.absolute(), engine_python.absolute()
    out.mkdir(parents=True, exist_ok=True)
    total, free = _unused() or (80 * GIB, 79 * GIB)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    defaults = {
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",
        "PYTHONUNBUFFERED": "1",
        "CACHE_DIR": str(out / "cache"),
    }
    environ = {**defaults, **environ}
    runs: list[Run] = []
    with contextlib.ExitStack() as stack:
        hold = [str(engine_python), "-c", HOG, str(int(HOG_SHARE * total))]
        hog = launch(hold, environ, out / "hog.log")
        stack.callback(hog.wait)
        stack.callback(hog.kill)
        for case in cases(config, total, free):
            stem = case.log.removesuffix(".log")
            if only and case.name not in only and stem not in only:
                continue
            folder, port = write_model(model, out / "models" / stem, case.config), free_port()
            if case.program == "vllm":
                run = Run(case, vllm_command(engine_python, folder, case, port, flags), environ, out)
            else:
                ours = our_environ(engine_python, folder, case, port, flags)
                run = Run(case, [sys.executable, "-m", "vllm_engine.cli", "serve"], environ | ours, out)
            stack.callback(run.end)
            runs.append(run)
        follow(runs, hog, seconds)
    rows = [_row(run, facts_of(run.case, config, total)) for run in runs]
    (out / "failures.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return rows


def _unused(seconds: float = 5.0) -> tuple[int, int] | None:
    """Wait until next to nothing of the GPU's memory is used, if it comes to that; returns total and free then."""
    end = time.monotonic() + seconds
    while (found := total_and_free()) and found[0] - found[1] > GIB and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _row(run: Run, facts: Facts) -> dict[str, Any]:
    case = run.case
    told = explain(run.text, run.status if run.ended_itself else None, case, facts)
    return {
        "what": "failure",
        "name": case.name,
        "program": case.program,
        "log": case.log,
        "expected": case.expected,
        "diagnosed": told.code,
        "message": str(told) if case.program == "vllm" else told.message,
        "exit_status": run.status,
        "ended_itself": run.ended_itself,
        "seconds": round(run.seconds, 1),
        "seconds_on_gpu": round(run.seconds_on_gpu, 1),
        "gpu_peak_gib": round(run.peak / GIB, 2) if run.peak else None,
        "is_right": run.ended_itself and told.code == case.expected,
    }


def main() -> None:
    """Run the cases, and print their table; exits with status 1 if one was not told rightly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--engine-python", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--flag", action="append", default=[], help="for every start, such as --flag=--no-x")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started too
    environ = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
    places = given.engine_python, given.model, environ, given.out
    rows = run_cases(*places, given.flag, only=given.only, seconds=given.seconds)
    print(markdown(rows))
    sys.exit(0 if all(row["is_right"] for row in rows) else 1)


if __name__ == "__main__":
    main()
