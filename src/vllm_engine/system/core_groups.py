"""The machine's cores as groups, one for each of vLLM's ranks on CPU."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system")


def numa_nodes(topology: Path = _TOPOLOGY) -> int:
    """Return how many NUMA nodes the machine has, at least 1."""
    return max(1, len(list((topology / "node").glob("node[0-9]*"))))


def core_groups(count: int, *, topology: Path = _TOPOLOGY, usable: set[int] | None = None) -> list[list[int]]:
    """Part the cores that this process may use into so many groups of neighbours, as equal as they can be.

    Of the threads of one core only the first is used, as vLLM does it (0.32, `utils/ompmultiprocessing.py`).
    There are fewer groups where there are fewer cores.
    """
    cores = sorted(os.sched_getaffinity(0) if usable is None else usable)
    first = [cpu for cpu in cores if cpu == min(_siblings(cpu, topology) & set(cores), default=cpu)]
    count = min(count, len(first))
    cuts = [len(first) * at // count for at in range(count + 1)]
    return [first[begin:end] for begin, end in pairwise(cuts)]


def _siblings(cpu: int, topology: Path) -> set[int]:
    try:
        text = (topology / f"cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
        return numbers_in(text)
    except (OSError, ValueError):
        return {cpu}


def numbers_in(text: str) -> set[int]:
    """Return the numbers of one of the kernel's lists, such as 0-3,8; raises ValueError if it is none."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
