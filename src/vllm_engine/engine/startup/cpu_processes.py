"""What vLLM starts on a CPU before anything is known of it from an earlier start: EngineCore and one worker.

As vLLM 0.32 and 0.33 do it (`vllm/platforms/cpu.py`, `vllm/utils/ompmultiprocessing.py`). If another vLLM
does it otherwise, the processes that were prepared are not used, and the next start knows better.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from vllm_engine.engine.process_tree import Node
from vllm_engine.system.core_groups import numbers_in

_CPUS = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")
_DECIDE_OTHERWISE = (
    *("CPU_VISIBLE_MEMORY_NODES", "GOMP_CPU_AFFINITY", "LD_PRELOAD", "OMP_NUM_THREADS"),
    *("VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_SIM_MULTI_NUMA"),
)
"""Variables of the user's with which vLLM decides otherwise."""


def cpu_processes(python: Path, environ: Mapping[str, str]) -> list[Node]:
    """Return the processes below the API server; none where that is not known."""
    reserved = environ.get("VLLM_CPU_NUM_OF_RESERVED_CPU", "")
    if platform.machine() != "x86_64" or any(environ.get(name) for name in _DECIDE_OTHERWISE):
        return []
    libraries = _preloaded(python.parent.parent)
    cpus = _one_of_each_core(_first_memory_node())
    if not (libraries and cpus and reserved.isdigit()):
        return []
    if 0 < int(reserved) < len(cpus):
        cpus = cpus[: -int(reserved)]
    openmp = {"OMP_NUM_THREADS": str(len(cpus)), "GOMP_CPU_AFFINITY": " ".join(map(str, cpus))}
    worker: Node = {"set": openmp, "unset": [], "children": []}
    core = {"LD_PRELOAD": libraries, "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1"}
    return [{"set": core, "unset": [], "children": [worker]}]


def _preloaded(prefix: Path) -> str:
    """Return torch's OpenMP library, after vLLM's allocator if it has one."""

    def first(*patterns: str) -> str:
        packages = "lib/python3.*/site-packages"
        return next((str(found) for each in patterns for found in prefix.glob(f"{packages}/{each}")), "")

    openmp = first("torch.libs/libgomp*.so*", "torch/lib/libgomp*.so*")
    allocator = first("vllm/libs/libtcmalloc_minimal*.so*", "vllm/libs/libtcmalloc.so*")
    return ":".join(filter(None, (allocator, openmp))) if openmp else ""


def _first_memory_node() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return min(numbers_in(status.partition("Mems_allowed_list:")[2].splitlines()[0].strip()))
    except (OSError, ValueError, IndexError):
        return 0


def _one_of_each_core(node: int) -> list[int]:
    """Return the last CPU of each core of a memory node that this process may use."""
    allowed = os.sched_getaffinity(0)
    try:
        allowed &= numbers_in((_NODES / f"node{node}/cpulist").read_text(encoding="ascii").strip())
    except FileNotFoundError:
        pass  # a machine without memory nodes
    except (OSError, ValueError):
        return []
    cores: dict[tuple[str, ...], int] = {}
    for cpu in sorted(allowed):
        topology = _CPUS / f"cpu{cpu}/topology"
        try:
            key = tuple((topology / name).read_text().strip() for name in ("physical_package_id", "core_id"))
        except OSError:
            return []
        cores[key] = cpu
    return sorted(cores.values())
