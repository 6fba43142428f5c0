"""The engine's processes beside its leader: noticed when they end, whatever vLLM makes of it.

vLLM's API process takes up to five seconds to see that its engine core is gone, and then exits with status 0.
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
"""How the processes that vLLM cannot do without are named (0.32's `utils/system_utils.py`): EngineCore,
Worker_TP0, APIServer_1, DPCoordinator. Helpers such as Python's resource tracker and compilers are not."""

_CORE = TITLE + "EngineCor"
"""Linux cuts a process' name to 15 characters."""
_PROC = Path("/proc")
_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Activity:
    """What the operating system says of the engine's work."""

    cpu_seconds: float
    """Of the engine cores' threads, since they were started."""
    is_running: bool
    """Whether a core is on a CPU, or waits for one or for a disk, at this moment."""
    is_stopped: bool
    """Whether a core or a worker was stopped by a signal."""


def members(leader: int) -> dict[int, str]:
    """Return the named processes in the leader's session, by process id; the leader is not one of them.

    Raises:
        OSError: we lack files; other processes may end while they are looked at.
    """
    return {pid: name for pid, name, _ in _processes(leader)}


def activity(leader: int) -> Activity | None:
    """Return what the engine does; None where that cannot be told."""
    ticks = 0
    is_running = is_stopped = found = False
    try:
        for _, name, fields in _processes(leader):
            is_stopped = is_stopped or fields[0] == "T"
            if name.startswith(_CORE):
                found = True
                is_running = is_running or fields[0] in "RD"
                ticks += int(fields[11]) + int(fields[12])
    except OSError:
        return None
    return Activity(ticks / os.sysconf("SC_CLK_TCK"), is_running, is_stopped) if found else None


def _processes(leader: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield id, name and what follows the name in `/proc/ID/stat` (proc(5)) of each member."""
    for pid in _pids():
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
    """Watches the members that there are when it is first waited for; needs a running event loop."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._loop = asyncio.get_running_loop()
        self._files: dict[int, int] = {}
        self._lost: asyncio.Future[str] = self._loop.create_future()

    async def first_loss(self) -> str:
        """Wait until one of them has ended; returns its name."""
        while True:
            try:
                self._watch_all()
                break
            except OSError as error:
                logger.warning("the engine's processes cannot be watched yet: %s", error)
                await asyncio.sleep(_AGAIN_SECONDS)
        return await asyncio.shield(self._lost)

    def _watch_all(self) -> None:
        for pid, name in members(self._leader).items():
            if pid not in self._files:
                self._watch(pid, name)

    def close(self) -> None:
        """Watch no more."""
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
            # Kernels before 5.3, some sandboxes: then the engine's own /health has to tell.
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


def _pids() -> Iterator[int]:
    yield from (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
