"""The engine's processes beside its leader: noticed when they end, whatever vLLM makes of it.

vLLM's API process takes up to five seconds to see that its engine core is gone, and then exits with status 0.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger("gateway.supervisor")

TITLE = "VLLM::"
"""How the processes that vLLM cannot do without are named (0.32's `utils/system_utils.py`): EngineCore,
Worker_TP0, APIServer_1, DPCoordinator. Helpers such as Python's resource tracker and compilers are not."""

_PROC = Path("/proc")


def members(leader: int) -> dict[int, str]:
    """Return the named processes in the leader's session, by process id; the leader is not one of them."""
    found = {}
    for pid in _pids():
        if pid == leader:
            continue
        with suppress(OSError, ValueError, IndexError):
            # proc(5): the name stands in parentheses and may hold any character.
            name, _, rest = (_PROC / str(pid) / "stat").read_text().partition("(")[2].rpartition(")")
            state, _, _, session = rest.split()[:4]
            if int(session) == leader and name.startswith(TITLE) and state not in "ZX":
                found[pid] = name
    return found


class Family:
    """Watches the members that there are when it is made; needs a running event loop."""

    def __init__(self, leader: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._files: dict[int, int] = {}
        self._lost: asyncio.Future[str] = self._loop.create_future()
        for pid, name in members(leader).items():
            self._watch(pid, name)

    async def first_loss(self) -> str:
        """Wait until one of them has ended; returns its name."""
        return await asyncio.shield(self._lost)

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
