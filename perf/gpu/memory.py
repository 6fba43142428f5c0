"""Watches the GPU's memory: how much is used in all, and which process holds how much."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pynvml

_SECONDS = 0.5


def snapshot() -> dict[str, Any]:
    """Return what the first GPU's memory holds in MiB, by process id; empty without a GPU."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return {}
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        found = {"used": memory.used >> 20, "total": memory.total >> 20, "processes": {}}
        with suppress(pynvml.NVMLError):
            for each in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                found["processes"][each.pid] = (each.usedGpuMemory or 0) >> 20
        return found
    finally:
        pynvml.nvmlShutdown()


class MemoryLog:
    """Appends a line to a file twice a second, while it is open, if there is a GPU."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if snapshot():
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        with self._path.open("a", encoding="utf-8", buffering=1) as out:
            while not self._over.wait(_SECONDS):
                out.write(json.dumps({"time": round(time.time(), 2), **snapshot()}) + "\n")
