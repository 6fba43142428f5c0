"""Processor time and memory of a tree of processes, from /proc (Linux only)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Processor time since each process started, and its resident memory now."""

    cpu_seconds: float
    rss_bytes: int
    processes: int


def usage(pid: int, without: Collection[int] = ()) -> Usage:
    """Add up a process and its descendants, except the trees of `without`."""
    cpu, rss, count = 0.0, 0, 0
    for each in tree(pid, without):
        try:
            cpu += cpu_seconds(each)
            rss += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * _PAGE_BYTES
            count += 1
        except OSError:
            continue  # it ended meanwhile
    return Usage(cpu, rss, count)


def tree(pid: int, without: Collection[int] = ()) -> Iterator[int]:
    """Yield a process and its descendants, except the trees of `without`."""
    if pid in without:
        return
    yield pid
    for task in _tasks(pid):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child), without)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of one process so far.

    Raises:
        OSError: it has ended.
    """
    # stat has ticks of 10 ms, rounded down; schedstat has nanoseconds, but not of threads that have ended.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
    try:
        exact = sum(int((task / "schedstat").read_text().split()[0]) for task in _tasks(pid)) / 1e9
    except OSError:
        return ticks
    return max(exact, ticks)


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
