"""One answer for everybody who asks at about the same time, where making it costs more than asking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """Makes an answer once at a time (single flight) and keeps it for a while; all get the same object."""

    def __init__(
        self,
        make: Callable[[], Awaitable[_T]],
        keep_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what makes an answer, and for how long it is good enough; 0: each asker has its own made."""
        self._make = make
        self._keep = keep_seconds
        self._clock = clock
        self._making: asyncio.Task[_T] | None = None
        self._stale_at = 0.0

    async def get(self) -> _T:
        """Return the answer that is kept, the one that is being made, or a new one.

        Whoever stops waiting does not stop it for the others. An error is shared as an answer is.
        """
        if not self._keep:
            return await self._make()
        making = self._making
        if making is None or (making.done() and self._clock() >= self._stale_at):
            making = self._making = asyncio.create_task(self._made())
        return await asyncio.shield(making)

    async def _made(self) -> _T:
        try:
            return await self._make()
        finally:
            self._stale_at = self._clock() + self._keep
