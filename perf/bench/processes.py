"""Starts what is measured, waits until it answers, pins it to cores, and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.bench.cpu_usage import tree, usage
from vllm_engine.client.bench.bench_plan import Plan
from vllm_engine.client.bench.bench_run import run_load

MODEL = "bench"
_READY_SECONDS = 90.0


class Unavailable(Exception):
    """Something cannot be installed or started; says why."""


@dataclass
class Running:
    """One process tree; `without` are the trees in it that are not measured, such as the gateway's engine."""

    name: str
    url: str
    process: subprocess.Popen[bytes] | None
    without: tuple[int, ...] = ()

    def cpu_seconds(self) -> float:
        """Return the processor time spent so far."""
        return 0.0 if self.process is None else usage(self.process.pid, self.without).cpu_seconds

    def rss_bytes(self) -> int:
        """Return the resident memory now."""
        return 0 if self.process is None else usage(self.process.pid, self.without).rss_bytes

    def stop(self) -> None:
        """End it and whatever it started."""
        if self.process is None:
            return
        everything = list(tree(self.process.pid))
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        for pid in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def spawn(
    name: str, argv: Sequence[str | Path], port: int, folder: Path, environ: Mapping[str, str]
) -> Running:
    """Start a process whose output goes to a log in `folder`, and wait until it streams an answer.

    Raises:
        Unavailable: it does not.
    """
    log = folder / f"{name.replace('/', '-')}.log"
    base = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                [str(word) for word in argv],
                env=base | dict(environ),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise Unavailable(f"cannot be run: {error}") from error
    running = Running(name, f"http://127.0.0.1:{port}", process)
    try:
        _await_stream(running, log)
    except BaseException:
        running.stop()
        raise
    return running


def _await_stream(running: Running, log: Path) -> None:
    plan = Plan(running.url, MODEL, requests=1, max_tokens=1, prompt_words=4, timeout_seconds=10)
    end = time.monotonic() + _READY_SECONDS
    while True:
        (row,) = run_load(plan)
        if row.error is None:
            return
        ended = running.process is not None and running.process.poll() is not None
        if ended or time.monotonic() > end:
            tail = " | ".join(log.read_text(errors="replace").splitlines()[-4:])
            raise Unavailable(f"does not stream ({row.error}); its log ends: {tail[-400:]}")
        time.sleep(0.2)


def pin(pids: Iterable[int], cores: Collection[int]) -> None:
    """Keep all threads of these processes on these cores."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), cores)
