"""The engine's child processes: the end of one is noticed at once, and their state can be read.

vLLM's API process takes up to five seconds to notice that its engine core has ended, and then exits with 0.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_engine.system.shortage import is_own_shortage

logger = logging.getLogger("gateway.supervisor")

TITLE = "VLLM::"
"""The names of the processes that vLLM cannot do without begin so (0.32's `utils/system_utils.py`):
EngineCore, Worker_TP0, APIServer_1, DPCoordinator. Those of helpers, such as compilers, do not."""

_CORE = TITLE + "EngineCor"
"""Linux cuts a process' name to 15 characters."""
_PROC = Path("/proc")
_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class ChildrenState:
    """The state of the engine's children as the kernel reports it.

    Attributes:
        cpu_seconds: CPU time of the engine cores since they were started.
        is_running: whether a core is on a CPU, or waits for one or for a disk, at this moment.
        is_stopped: whether a signal has stopped a core or a worker.
    """

    cpu_seconds: float
    is_running: bool
    is_stopped: bool


def children_state(leader: int) -> ChildrenState | None:
    """Return the state of the leader's children; None where it cannot be read or there is no core."""
    ticks = 0
    is_running = is_stopped = has_core = False
    try:
        for _, name, fields in _processes(leader):
            is_stopped = is_stopped or fields[0] == "T"
            if name.startswith(_CORE):
                has_core = True
                is_running = is_running or fields[0] in "RD"
                ticks += int(fields[11]) + int(fields[12])
    except OSError:
        return None
    return ChildrenState(ticks / os.sysconf("SC_CLK_TCK"), is_running, is_stopped) if has_core else None


def _processes(leader: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield id, name and the fields after the name in `/proc/ID/stat` (proc(5)) of each named child.

    Raises:
        OSError: this process is out of files.
    """
    for pid in (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()):
        if pid == leader:
            continue
        try:
            text = (_PROC / str(pid) / "stat").read_text()
        except OSError as error:
            if is_own_shortage(error):
                raise
            continue
        # proc(5): the name stands in parentheses and may hold any character.
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        if len(fields) > 12 and int(fields[3]) == leader and name.startswith(TITLE) and fields[0] not in "ZX":
            yield pid, name, fields


class ChildWatcher:
    """Watches the children that exist when it is first waited for; needs a running event loop."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._loop = asyncio.get_running_loop()
        self._files: dict[int, int] = {}
        self._lost: asyncio.Future[str] = self._loop.create_future()

    async def first_loss(self) -> str:
        """Wait until one of them has ended; returns its name and process id."""
        while True:
            try:
                for pid, name, _ in _processes(self._leader):
                    if pid not in self._files:
                        self._watch(pid, name)
                break
            except OSError as error:
                logger.warning("the engine's processes cannot be watched yet: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
        return await asyncio.shield(self._lost)

    def close(self) -> None:
        """Stop watching."""
        for descriptor in self._files.values():
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._files.clear()
        self._lost.cancel()

    def _watch(self, pid: int, name: str) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._end(pid, name)
            return
        except OSError as error:
            if is_own_shortage(error):
                raise
            # Kernels before 5.3 and some sandboxes: then only the engine's /health shows it.
            logger.info("process %d (%s) cannot be watched: %s", pid, name, error)
            return
        self._files[pid] = descriptor
        self._loop.add_reader(descriptor, self._end, pid, name)

    def _end(self, pid: int, name: str) -> None:
        descriptor = self._files.pop(pid, None)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        if not self._lost.done():
            self._lost.set_result(f"{name} (process {pid})")
