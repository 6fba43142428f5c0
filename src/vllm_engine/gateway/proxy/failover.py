"""Requests that outlast an engine: they wait for its restart, bounded in number and time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum

from vllm_engine.engine.engine_state import EngineState, EngineStatus, StatusReader
from vllm_engine.gateway.rejection import RETRY_AFTER_SECONDS, Rejected

NOTICE_SECONDS = 2.0
"""An engine's exit is noticed within a second; a failed request may show it first."""

_ENDED = frozenset((EngineState.FAILED, EngineState.DRAINING, EngineState.STOPPED))


class Verdict(StrEnum):
    """What has happened to the engine after a request failed."""

    LIVES = "lives"
    """It was never lost: only this request has failed."""
    RESTARTED = "restarted"
    GONE = "gone"
    """It is not restarted, or not in time."""


class Recovery:
    """Lets requests wait for an engine that is being restarted, each for `timeout_seconds` (0: none does).

    Of those `max_waiting` that may wait, the ones that had a place at the engine always may.
    """

    def __init__(self, status: StatusReader, *, timeout_seconds: float, max_waiting: int) -> None:
        self._status = status
        self._timeout = timeout_seconds
        self._max_waiting = max_waiting
        self.waiting = 0
        """How many requests wait now."""

    @property
    def is_under_way(self) -> bool:
        """Whether the engine has served, is not ready, and is to come back; never where replay is off.

        An idle engine comes back for a request.
        """
        status = self._status.current
        if not self._timeout or status.is_ready or status.state in _ENDED:
            return False
        return status.starts > 1 or status.state is not EngineState.STARTING

    async def until_ready(self) -> None:
        """Wait until the engine serves again; returns as well when it never will: then it is not ready.

        Raises:
            Rejected: too many wait already, or it took too long.
        """
        if self.waiting >= self._max_waiting:
            raise Rejected(
                503,
                "saturated",
                f"The engine is being started and {self.waiting} requests already wait for it, which is "
                "the limit (MAX_IN_FLIGHT plus MAX_QUEUE)",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if self.waiting and self._status.current.is_ready:
            await asyncio.sleep(0)  # those who have waited go first, in this turn of the loop
        if not await self._until(lambda now: now.is_ready or now.state in _ENDED):
            late = Rejected(
                503,
                "restart_timeout",
                "The engine is being started and did not become ready within "
                f"REPLAY_TIMEOUT_SECONDS={self._timeout:g}",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
            late.has_waited = True
            raise late

    async def is_lost(self, start: int) -> bool:
        """Find out whether the engine of this start is lost; waits a little until that is noticed."""
        return await self._until(lambda now: now.starts != start or not now.is_ready, NOTICE_SECONDS)

    async def after_failure(self, start: int) -> Verdict:
        """Find out whether the engine of this start was lost, and wait until it is back."""
        if not await self.is_lost(start):
            return Verdict.LIVES
        if not self._timeout:
            return Verdict.GONE
        await self._until(lambda now: now.state in _ENDED or (now.is_ready and now.starts != start))
        return Verdict.RESTARTED if self._status.current.is_ready else Verdict.GONE

    async def _until(self, met: Callable[[EngineStatus], bool], seconds: float | None = None) -> bool:
        if met(self._status.current):
            return True
        came = asyncio.get_running_loop().create_future()

        def look(status: EngineStatus) -> None:
            if met(status) and not came.done():
                came.set_result(None)

        end = self._status.watch(look)
        self.waiting += seconds is None
        try:
            async with asyncio.timeout(self._timeout if seconds is None else seconds):
                await came
        except TimeoutError:
            return False
        finally:
            self.waiting -= seconds is None
            end()
        return True
