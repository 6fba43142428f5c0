"""How long the engine has made no progress, under load or on one token, and how long a step may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import NamedTuple

from vllm_engine.engine.control_client import NotAskedError
from vllm_engine.engine.watchdog.child_watcher import ChildrenState

LEAST_SECONDS = 20.0
"""With `CANARY_INTERVAL_SECONDS=30`, an engine that stops while it is idle is noticed within a minute."""
_FACTOR = 5.0
"""Times the longest step so far: a machine may be that much busier than it was."""
_LOOK_SECONDS = 2.0
_BUSY_SHARE = 0.05
"""Of one CPU: idle or stuck processes use less, whatever their helper threads do."""


class IdleChecks(NamedTuple):
    """How long an engine is idle before a token is requested (0: never), and how long that may take."""

    interval_seconds: float
    most_seconds: float

    @classmethod
    def of_nodes(cls, nodes: int, interval_seconds: float, hang_seconds: float) -> IdleChecks:
        """Return `CANARY_INTERVAL_SECONDS` and `HANG_TIMEOUT_SECONDS` as they apply to so many nodes.

        A node or link that is lost while nobody asks anything may show in nothing but the next token: on
        several nodes wait and request together stay below `HANG_TIMEOUT_SECONDS`, and so do three intervals,
        after which a request that fails is believed.
        """
        if nodes == 1:
            return cls(interval_seconds, hang_seconds)
        return cls(min(interval_seconds, hang_seconds / 4), hang_seconds / 2)


class StallClock:
    """Adds up the time with requests at the engine and without progress.

    Requests that end are no progress, since their clients may have given up; time without any does not count.
    """

    def __init__(self) -> None:
        self._progress: Hashable = None
        self._stalled = 0.0
        self._then: float | None = None

    def seconds(self, now: float, running: int, progress: Hashable) -> float:
        """Return the time so far; `progress` changes whenever the engine works."""
        if progress != self._progress:
            self._progress, self._stalled = progress, 0.0
        elif self._then is not None:
            self._stalled += now - self._then
        self._then = now if running else None
        return self._stalled


class StepLimit:
    """How long one step may take: five times the longest that this engine has completed, within bounds."""

    def __init__(self, most_seconds: float) -> None:
        """Take the upper bound (`HANG_TIMEOUT_SECONDS`)."""
        self.most_seconds = most_seconds
        self._longest = 0.0

    def completed(self, seconds: float) -> None:
        """Record that a step, such as the first token, was completed after so long."""
        self._longest = max(self._longest, seconds)

    @property
    def seconds(self) -> float:
        """The present limit."""
        return min(self.most_seconds, max(LEAST_SECONDS, _FACTOR * self._longest))


async def stalled_seconds(
    generate: Callable[[], Awaitable[None]],
    read_progress: Callable[[], Awaitable[Hashable]],
    read_children: Callable[[], ChildrenState | None],
    limit: StepLimit,
    most_seconds: float,
) -> float | None:
    """Request one token; returns None when it came, else how long the engine has made no progress.

    A step may take longer than ever. With evidence that the engine works on it the limit is `most_seconds`;
    without any it is the engine's `StepLimit`, if that is less.

    `generate` has no time limit of its own; what `read_progress` returns changes as the engine core works.

    Raises:
        ControlError: the engine fails to generate.
        NotAskedError: it could not be asked.
    """
    loop = asyncio.get_running_loop()
    progress, before = await read_progress(), read_children()
    began = moved = loop.time()
    works = False
    token = asyncio.ensure_future(generate())
    least_seconds = min(limit.seconds, most_seconds)
    pause = min(_LOOK_SECONDS, least_seconds / 4)
    try:
        while not (await asyncio.wait({token}, timeout=pause))[0]:
            try:
                seen = await read_progress()
            except NotAskedError:
                continue
            now = loop.time()
            if seen != progress:
                progress, moved, works = seen, now, True
            works = works or _is_busy(before, read_children(), now - began)
            if now - moved > (most_seconds if works else least_seconds) and not token.done():
                return now - moved
        await token
        limit.completed(loop.time() - began)
        return None
    finally:
        token.cancel()
        await asyncio.gather(token, return_exceptions=True)


def _is_busy(before: ChildrenState | None, now: ChildrenState | None, seconds: float) -> bool:
    """Whether the engine has computed for the last `seconds`; True where that cannot be known."""
    if before is None or now is None:
        return True
    return now.is_running or now.cpu_seconds - before.cpu_seconds >= _BUSY_SHARE * seconds
