"""The engine's child processes: the end of one is noticed at once, and their state can be read.

vLLM's API process takes up to five seconds to notice that its engine core has ended, and then exits with 0.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vllm_engine.engine.engine_state import Frontend
from vllm_engine.engine.output.engine_exit import describe_exit
from vllm_engine.system.shortage import is_own_shortage

logger = logging.getLogger("gateway.supervisor")

TITLE = "VLLM::"
"""The names of the processes that vLLM cannot do without begin so (0.32's `utils/system_utils.py`):
EngineCore, Worker_TP0, APIServer_1, DPCoordinator. Those of helpers, such as compilers, do not."""

RUST_FRONTEND: Final = "vllm-rs"
"""The name of the Rust frontend's process beside the Python frontend, which is the engine's first process."""

_CORE = TITLE + "EngineCor"
"""Linux cuts a process' name to 15 characters."""
_WORKER = TITLE + "Worker"
_PROC = Path("/proc")
_STAT_BYTES = 4096
"""52 numbers and a name of 15 characters take a few hundred (proc(5))."""
_RETRY_SECONDS = 5.0
_REAPED_SECONDS = 0.2
"""How long vLLM may take to collect the exit status of a child: only then does a pidfd tell it to others."""
_STATUS_FIELD = 49
"""Of those after the name in `/proc/ID/stat`: the status of one that has ended, until it is collected."""
_PIDFD_GET_INFO = 0xC040_FF0B
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=Q52xi")
"""A mask of what is asked and told, and at the end the exit status (linux/pidfd.h; Linux 6.15)."""


@dataclass(frozen=True)
class ChildrenState:
    """The state of the engine's children as the kernel reports it.

    Attributes:
        cpu_seconds: CPU time, since their start, of the processes that show the engine's work: the cores,
            and on a CPU the workers.
        is_running: whether one of them is on a CPU, or waits for one or for a disk, at this moment.
        is_stopped: whether a signal has stopped a core, a worker or a frontend.
    """

    cpu_seconds: float
    is_running: bool
    is_stopped: bool


def children_state(leader: int, *, on_cpu: bool = False) -> ChildrenState | None:
    """Return the state of the leader and its children; None where it cannot be read or there is no core.

    `on_cpu` says that the workers compute on the CPU: those of a GPU spin while they wait for it, and one
    step of theirs on a CPU may take longer than any wait of the core's.
    """
    shows_work = (_CORE, _WORKER) if on_cpu else (_CORE,)
    ticks = 0
    is_running = is_stopped = has_core = False
    try:
        for _, name, fields in _processes(leader, with_leader=True):
            is_stopped = is_stopped or fields[0] == "T"
            has_core = has_core or name.startswith(_CORE)
            if name.startswith(shows_work):
                is_running = is_running or fields[0] in "RD"
                ticks += int(fields[11]) + int(fields[12])
    except OSError:
        return None
    return ChildrenState(ticks / os.sysconf("SC_CLK_TCK"), is_running, is_stopped) if has_core else None


def process_ids(leader: int) -> tuple[int, ...]:
    """Return the ids of the leader and of its children above; none where they cannot be read."""
    try:
        return tuple(pid for pid, _, _ in _processes(leader, with_leader=True))
    except OSError:
        return ()


def _processes(leader: int, *, with_leader: bool = False) -> Iterator[tuple[int, str, list[str]]]:
    """Yield id, name and the fields after the name in `/proc/ID/stat` (proc(5)) of each named child.

    The leader, the engine's first process, may have any name.

    Raises:
        OSError: this process is out of files.
    """
    # Without pathlib, which takes four times as long: with hundreds of processes on the machine that would be
    # milliseconds, in which every stream waits.
    with os.scandir(_PROC) as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for pid in pids:
        if pid == leader and not with_leader:
            continue
        try:
            text = _read(f"{_PROC}/{pid}/stat")
        except OSError as error:
            if is_own_shortage(error):
                raise
            continue
        # proc(5): the name stands in parentheses and may hold any character.
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        if len(fields) < 13 or int(fields[3]) != leader or fields[0] in "ZX":
            continue
        if pid == leader or name.startswith(TITLE) or name == RUST_FRONTEND:
            yield pid, name, fields


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, _STAT_BYTES).decode(errors="replace")
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class ChildExit:
    """The end of one of the engine's children; the status, negative for a signal, is None where not known."""

    title: str
    pid: int
    status: int | None

    def __str__(self) -> str:
        end = "exited" if self.status is None else describe_exit(self.status)
        return f"{self.title} (process {self.pid}) {end}"


class ChildWatcher:
    """Watches the children that exist when it is first waited for; needs a running event loop."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._loop = asyncio.get_running_loop()
        self._files: dict[int, int] = {}
        self._lost: asyncio.Future[ChildExit] = self._loop.create_future()

    @property
    def has_loss(self) -> bool:
        """Whether one of them has ended."""
        return self._lost.done()

    async def first_loss(self) -> ChildExit:
        """Wait until one of them has ended, and a moment for its exit status."""
        while True:
            try:
                for pid, name, _ in _processes(self._leader):
                    if pid not in self._files:
                        self._watch(pid, _title(pid, name))
                break
            except OSError as error:
                logger.warning("the engine's processes cannot be watched yet: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
        lost = await asyncio.shield(self._lost)
        return lost if lost.status is not None else replace(lost, status=await self._status(lost.pid))

    def close(self) -> None:
        """Stop watching."""
        for descriptor in self._files.values():
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
        self._files.clear()
        self._lost.cancel()

    async def _status(self, pid: int) -> int | None:
        end = self._loop.time() + _REAPED_SECONDS
        try:
            while pid in self._files and self._loop.time() < end:
                asked = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0))
                fcntl.ioctl(self._files[pid], _PIDFD_GET_INFO, asked)
                told, status = _PIDFD_INFO.unpack(asked)
                if told & _PIDFD_INFO_EXIT:
                    return os.waitstatus_to_exitcode(status)
                await asyncio.sleep(0.005)
        except OSError:
            pass  # an older kernel, or a sandbox
        return None

    def _watch(self, pid: int, title: str) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._end(pid, title)
            return
        except OSError as error:
            if is_own_shortage(error):
                raise
            # Kernels before 5.3 and some sandboxes: then only the engine's /health shows it.
            logger.info("process %d (%s) cannot be watched: %s", pid, title, error)
            return
        self._files[pid] = descriptor
        self._loop.add_reader(descriptor, self._end, pid, title)

    def _end(self, pid: int, title: str) -> None:
        descriptor = self._files.get(pid)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
        if not self._lost.done():
            self._lost.set_result(ChildExit(title, pid, _uncollected_status(pid)))


def _uncollected_status(pid: int) -> int | None:
    """Return the exit status of a process that has ended; None where it cannot be known in this way.

    The kernel says 0 to those who may not know it, so 0 is not known.
    """
    try:
        fields = _read(f"{_PROC}/{pid}/stat").rpartition(")")[2].split()
    except OSError:
        return None
    if len(fields) <= _STATUS_FIELD or fields[0] != "Z" or fields[_STATUS_FIELD] == "0":
        return None
    return os.waitstatus_to_exitcode(int(fields[_STATUS_FIELD]))


def _title(pid: int, name: str) -> str:
    """Return a process' title, which vLLM sets; its name where the title cannot be read or is another."""
    if name == RUST_FRONTEND:
        return Frontend.RUST.words
    try:
        text = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return name
    title = text.partition(b"\0")[0].decode(errors="replace").strip().rpartition("/")[2]
    return title if title.startswith(name) else name
