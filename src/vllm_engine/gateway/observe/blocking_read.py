"""Asks something that may block for ever, such as a dead network mount, without ever blocking the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Generic, TypeVar

SECONDS = 1.0
"""How long an answer is waited for."""

_T = TypeVar("_T")


class BlockingRead(Generic[_T]):
    """One question, asked in a thread of its own and once at a time."""

    def __init__(self, name: str, ask: Callable[[], _T | None]) -> None:
        """Take the thread's name and the question; `ask` returns None for what it cannot tell."""
        self._name, self._ask_now = name, ask
        self._asked: asyncio.Future[_T | None] | None = None

    async def get(self) -> _T | None:
        """Return the answer; None while there is none."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().create_future()
            # What blocks a thread of a pool for ever would block our exit too.
            thread = Thread(target=self._ask, args=(self._asked,), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # how CPython reports EAGAIN of pthread_create(3)
                self._asked.set_result(None)
        await asyncio.wait((self._asked,), timeout=SECONDS)
        return self._asked.result() if self._asked.done() else None

    def _ask(self, asked: asyncio.Future[_T | None]) -> None:
        found = None
        try:
            found = self._ask_now()
        except OSError:
            pass
        finally:
            with suppress(RuntimeError):  # the loop may have ended in the meantime
                asked.get_loop().call_soon_threadsafe(_settle, asked, found)


def _settle(asked: asyncio.Future[_T | None], found: _T | None) -> None:
    if not asked.done():
        asked.set_result(found)
