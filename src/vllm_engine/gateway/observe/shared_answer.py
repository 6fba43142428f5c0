"""One answer for all who ask at about the same time (single flight)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """Makes an answer once at a time and keeps it for a while; all callers get the same object.

    It is fresh enough for `keep_seconds` of the monotonic clock; with 0 one is made for each caller.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[_T]],
        keep_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._keep = keep_seconds
        self._clock = clock
        self._making: asyncio.Task[_T] | None = None
        self._stale_at = 0.0

    async def get(self) -> _T:
        """Return the answer that is kept, the one that is being made, or a new one.

        A caller that is cancelled does not stop it for the others. An error is shared like an answer.
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
