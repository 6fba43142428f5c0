"""How full a folder's file system is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vllm_engine.gateway.observe.blocking_read import BlockingRead


@dataclass(frozen=True)
class Space:
    """A file system's size, and what a user may still write; in bytes."""

    free: int
    size: int


class Disk:
    """The file system of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = BlockingRead("disk", self._ask)

    async def space(self) -> Space | None:
        """Return its space; None while the file system does not answer, or if there is no such folder."""
        return await self._read.get()

    def _ask(self) -> Space:
        usage = shutil.disk_usage(self._folder)
        return Space(free=usage.free, size=usage.total)
