"""How full a folder's file system is, asked without ever blocking the gateway."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

_SECONDS = 1.0


@dataclass(frozen=True)
class Space:
    """A file system's size, and what a user may still write; in bytes."""

    free: int
    size: int


class Disk:
    """The file system of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked: asyncio.Future[Space | None] | None = None

    async def space(self) -> Space | None:
        """Return its space; None while the file system does not answer, or if there is no such folder."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().create_future()
            # A dead network mount blocks for ever; a thread of a pool would then block our exit too.
            thread = Thread(target=self._ask, args=(self._asked,), name="disk", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # how CPython reports EAGAIN of pthread_create(3)
                self._asked.set_result(None)
        await asyncio.wait((self._asked,), timeout=_SECONDS)
        return self._asked.result() if self._asked.done() else None

    def _ask(self, asked: asyncio.Future[Space | None]) -> None:
        try:
            usage = shutil.disk_usage(self._folder)
            found = Space(free=usage.free, size=usage.total)
        except OSError:
            found = None
        with suppress(RuntimeError):  # the loop may have ended in the meantime
            asked.get_loop().call_soon_threadsafe(_settle, asked, found)


def _settle(asked: asyncio.Future[Space | None], found: Space | None) -> None:
    if not asked.done():
        asked.set_result(found)
