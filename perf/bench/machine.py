"""Which machine and which software the figures come from."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from perf.bench.cpu_usage import usage


def describe() -> str:
    """Return one line."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in info if line.startswith("model name")), "unknown CPU")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {model.strip()}, {os.cpu_count()} cores, {pages:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, commit {commit()}"
    )


def busy_seconds() -> float:
    """Return the processor time that all programs of this machine have used since its start."""
    words = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, words[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def others_seconds() -> float:
    """Return the processor time of what is neither this program nor started by it."""
    return busy_seconds() - usage(os.getpid()).cpu_seconds


def await_quiet(cores: float, seconds: float) -> None:
    """Wait until other programs use no more than these cores, but not longer than these seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = others_seconds()
        time.sleep(1.0)
        if others_seconds() - began <= cores:
            return


def commit() -> str:
    """Return the checkout's commit, and whether the sources are changed; `unknown` where git or its data lack."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "../../src") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
