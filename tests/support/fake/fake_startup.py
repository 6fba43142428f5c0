"""What a fake engine does before it serves: real log lines, a real socket, real children."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.support.fake.fake_scenarios import LOGS, Scenario

_CLOCK = re.compile(rb"\d\d-\d\d (\d\d):(\d\d):(\d\d)")
_PROCESS = re.compile(rb"^\((\w+)[\w-]*( pid=)\d+\)")
_SERVES = re.compile(rb"Started server process|\[shutdown\]|\"(GET|POST) /")
"""The first line that a replay leaves out: from there on the fake's own server speaks."""

_SLEEPER = "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(1)); signal.pause()"
_SLEEPER_WITH_ORPHAN = """
import signal, subprocess, sys
deaf = lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN)  # before its exec, so it is never not deaf
subprocess.Popen([sys.argv[1], "-S", "-E", "-c", "import signal; signal.pause()"], preexec_fn=deaf)
signal.pause()
"""


@dataclass(frozen=True)
class LogLine:
    """A line of a real log."""

    raw: bytes
    at: float
    """Seconds since the log's first line."""

    @property
    def descriptor(self) -> int:
        return 1 if _PROCESS.match(self.raw) else 2


def read_log(name: str) -> list[LogLine]:
    lines: list[LogLine] = []
    first = now = None
    # An absolute path wins over LOGS.
    for raw in (LOGS / name).read_bytes().splitlines(keepends=True):
        if _SERVES.search(raw):
            break
        if clock := _CLOCK.search(raw):
            hours, minutes, seconds = map(int, clock.groups())
            now = hours * 3600 + minutes * 60 + seconds
            first = now if first is None else first
        lines.append(LogLine(raw, float((now or 0) - (first or 0))))
    return lines


class EngineCoreProcess:
    """A second process in the group, named as vLLM's; it only sleeps."""

    def __init__(self, *, with_orphan: bool) -> None:
        folder = Path(sys.prefix) / "bin"
        sleeper = (_SLEEPER_WITH_ORPHAN, str(folder / "VLLM::Worker")) if with_orphan else (_SLEEPER,)
        self.process = subprocess.Popen(
            [folder / "VLLM::EngineCore", "-S", "-E", "-c", *sleeper], stdin=subprocess.DEVNULL
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def fail(self) -> None:
        """Have it end by itself, with an error."""
        self.process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        self.process.kill()

    def reap(self) -> None:
        self.process.wait()


class Replay:
    """Writes a start's log lines, at their times, with the pids and the clock of now."""

    def __init__(self, scenario: Scenario, steps: dict[bytes, Callable[[], None]]) -> None:
        self._scenario = scenario
        self._steps = dict(steps)
        self._pids = {b"APIServer": os.getpid()}

    def name_process(self, name: bytes, pid: int) -> None:
        self._pids[name] = pid

    def run(self) -> None:
        for line in self._timed(read_log(self._scenario.startup_log)):
            for key in [key for key in self._steps if key in line.raw]:
                self._steps.pop(key)()
            write(line.descriptor, self._rewritten(line.raw))
        for step in self._steps.values():
            step()

    def _timed(self, lines: list[LogLine]) -> Iterator[LogLine]:
        whole = lines[-1].at if lines else 0.0
        started = time.monotonic()
        for line in lines:
            if whole and self._scenario.startup_seconds:
                due = started + line.at / whole * self._scenario.startup_seconds
                time.sleep(max(0.0, due - time.monotonic()))
            yield line

    def _rewritten(self, raw: bytes) -> bytes:
        if process := _PROCESS.match(raw):
            # A worker, if there is none, is given the pid after the engine core's.
            pid = self._pids.get(process[1], self._pids.get(b"EngineCore", 0) + 1)
            raw = raw[: process.end(2)] + str(pid).encode() + raw[process.end() - 1 :]
        return _CLOCK.sub(time.strftime("%m-%d %H:%M:%S").encode(), raw, count=1)


def write(descriptor: int, data: bytes) -> None:
    # Like Python's logging, and so like vLLM, go on when nobody reads any more.
    with suppress(BrokenPipeError):
        while data:
            data = data[os.write(descriptor, data) :]


def log(level: str, message: str) -> None:
    now = time.strftime("%m-%d %H:%M:%S")
    write(1, f"(APIServer pid={os.getpid()}) {level} {now} {message}\n".encode())


def write_chatter(scenario: Scenario) -> None:
    if "many" in scenario.chatter:
        for number in range(20_000):
            write(1, f"(APIServer pid={os.getpid()}) INFO chatter line {number}\n".encode())
    if "long" in scenario.chatter:
        write(1, b"long " + b"x" * 4_000_000 + b"\n")
    if "binary" in scenario.chatter:
        write(2, b"binary \xff\xfe\x80 \xc3( \x00 \x1b[31m end\n")


def end(scenario: Scenario, status: int) -> NoReturn:
    for line in scenario.last_lines:
        write(2, line.encode() + b"\n")
    if status < 0:
        if status != -signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def sleep_for_ever() -> NoReturn:
    while True:
        signal.pause()
