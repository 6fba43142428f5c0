"""One token, requested while nothing else is running: does the engine core still work?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from vllm_engine.engine.control_client import NotAskedError
from vllm_engine.engine.watchdog.child_watcher import ChildrenState
from vllm_engine.engine.watchdog.stall import StepLimit

_LOOK_SECONDS = 2.0
_BUSY_SHARE = 0.05
"""Of one CPU: an idle or stuck engine core uses less, whatever its helper threads do."""


class OneTokenCheck:
    """Requests a token and decides when it is certain not to come.

    A step may take longer than ever. With evidence that the engine works on it the limit is
    `HANG_TIMEOUT_SECONDS`; without any it is the engine's `StepLimit`.

    Args:
        generate: requests one token, without a time limit of its own.
        progress: returns a value that changes as the engine core works; raises `NotAskedError`.
        children: returns the state of the engine's processes; None where it cannot be read.
        limit: for one step.
    """

    def __init__(
        self,
        generate: Callable[[], Awaitable[None]],
        progress: Callable[[], Awaitable[Hashable]],
        children: Callable[[], ChildrenState | None],
        limit: StepLimit,
    ) -> None:
        self._generate = generate
        self._progress = progress
        self._children = children
        self._limit = limit

    async def stalled_seconds(self) -> float | None:
        """Request one token; returns None when it came, else how long the engine has made no progress.

        Raises:
            ControlError: the engine fails to generate.
            NotAskedError: it could not be asked.
        """
        loop = asyncio.get_running_loop()
        progress, before = await self._progress(), self._children()
        began = moved = loop.time()
        works = False
        token = asyncio.ensure_future(self._generate())
        pause = min(_LOOK_SECONDS, self._limit.seconds / 4)
        try:
            while not (await asyncio.wait({token}, timeout=pause))[0]:
                try:
                    seen = await self._progress()
                except NotAskedError:
                    continue
                now = loop.time()
                if seen != progress:
                    progress, moved, works = seen, now, True
                works = works or is_busy(before, self._children(), now - began)
                limit = self._limit.most_seconds if works else self._limit.seconds
                if now - moved > limit and not token.done():
                    return now - moved
            await token
            self._limit.completed(loop.time() - began)
            return None
        finally:
            token.cancel()
            await asyncio.gather(token, return_exceptions=True)


def is_busy(before: ChildrenState | None, now: ChildrenState | None, seconds: float) -> bool:
    """Whether the core has computed for the last `seconds`; True where that cannot be known."""
    if before is None or now is None:
        return True
    return now.is_running or now.cpu_seconds - before.cpu_seconds >= _BUSY_SHARE * seconds
