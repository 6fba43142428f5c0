"""Watches the GPU's memory: how much is used in all, and which process holds how much."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pynvml

_SECONDS = 0.5


@cache
def _gpu() -> Any:
    """Return NVML's handle of the first GPU, whatever `CUDA_VISIBLE_DEVICES` says; None without one."""
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(0)
    return None


def total_and_free() -> tuple[int, int] | None:
    """Return the bytes that the first GPU has and how many are free, as its driver counts; None without a GPU."""
    if _gpu() is None:
        return None
    memory = pynvml.nvmlDeviceGetMemoryInfo(_gpu())
    return int(memory.total), int(memory.free)


def snapshot() -> dict[str, Any]:
    """Return what the first GPU's memory holds in MiB, by process id; empty without a GPU."""
    if _gpu() is None:
        return {}
    memory = pynvml.nvmlDeviceGetMemoryInfo(_gpu())
    found = {"used": memory.used >> 20, "total": memory.total >> 20, "processes": {}}
    with suppress(pynvml.NVMLError):
        for each in pynvml.nvmlDeviceGetComputeRunningProcesses(_gpu()):
            found["processes"][each.pid] = (each.usedGpuMemory or 0) >> 20
    return found


def driver() -> str | None:
    """Return the version of the GPU's driver; None without a GPU."""
    return None if _gpu() is None else str(pynvml.nvmlSystemGetDriverVersion())


@contextmanager
def memory_log(path: Path) -> Iterator[None]:
    """Append a line to a file twice a second meanwhile, if there is a GPU."""
    over = threading.Event()

    def write() -> None:
        with path.open("a", encoding="utf-8", buffering=1) as out:
            while not over.wait(_SECONDS):
                out.write(json.dumps({"time": round(time.time(), 2), **snapshot()}) + "\n")

    thread = threading.Thread(target=write, daemon=True)
    if snapshot():
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
