"""When an engine that nobody needs is stopped (`IDLE_STOP_SECONDS`), and when it is started again.

The gateway counts what needs the engine, and the supervisor acts on it, both in one event loop: from the look
at the counts to the move to `idle` nothing is awaited, so no request comes between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from vllm_engine.engine.engine_state import StatusBoard

_Loss = TypeVar("_Loss")

logger = logging.getLogger("gateway.supervisor")


class ClientDemand:
    """Clients' requests that need the engine: waiting for it, queued, or at it.

    What machines ask for as a matter of routine is not cut off by a stop, but neither puts it off nor starts
    the engine. `idle_stop_seconds` is how long there must be no request; 0: it is never stopped.
    """

    def __init__(self, idle_stop_seconds: float = 0.0) -> None:
        self.idle_stop_seconds = idle_stop_seconds
        self.kept_for: str | None = None
        """Why this start of the engine is not stopped, although it may be idle."""
        self._requests = 0
        self._routine = 0
        self._quiet_since = 0.0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._wanted = asyncio.Event()

    def enter(self, *, is_routine: bool = False) -> None:
        """A request needs the engine from now on; whoever calls this must call `leave` at its end."""
        self._quiet.clear()
        if is_routine:
            self._routine += 1
        else:
            self._requests += 1
            self._wanted.set()

    def leave(self, *, is_routine: bool = False) -> None:
        """A request needs the engine no more."""
        if is_routine:
            self._routine -= 1
        else:
            self._requests -= 1
            if not self._requests:
                self._wanted.clear()
                self._quiet_since = asyncio.get_running_loop().time()
        if not (self._requests or self._routine):
            self._quiet.set()

    def keep(self, reason: str) -> None:
        """Do not stop the engine of this start: it holds what a stop would lose."""
        if self._may_stop:
            logger.info("the engine is not stopped for being idle until its next start: %s", reason)
        self.kept_for = self.kept_for or reason

    def begin(self) -> None:
        """An engine is ready: the time without requests is counted from now on."""
        self.kept_for = None
        self._quiet_since = asyncio.get_running_loop().time()

    @property
    def is_stop_due(self) -> bool:
        """Whether the engine is to be stopped at this moment."""
        return self._quiet.is_set() and self._may_stop and self._seconds_left() <= 0

    async def until_stop_due(self) -> None:
        """Wait until the engine is to be stopped; look at `is_stop_due` before doing so."""
        while self._may_stop:
            await self._quiet.wait()
            if self.is_stop_due:
                return
            await asyncio.sleep(max(0.0, self._seconds_left()))
        await asyncio.Event().wait()

    @property
    def is_wanted(self) -> bool:
        """Whether a request needs the engine."""
        return self._requests > 0

    async def until_wanted(self) -> None:
        """Wait until a request needs the engine."""
        await self._wanted.wait()

    @property
    def _may_stop(self) -> bool:
        return self.idle_stop_seconds > 0 and self.kept_for is None

    def _seconds_left(self) -> float:
        return self._quiet_since + self.idle_stop_seconds - asyncio.get_running_loop().time()


async def until_lost_or_idle(
    watching: Awaitable[_Loss], demand: ClientDemand, board: StatusBoard
) -> _Loss | None:
    """Wait until a ready engine is lost, and return how; None once its state is `idle`, to be stopped.

    The watching is cancelled by then: there is no verdict on an engine that is being stopped.
    """
    lost = asyncio.ensure_future(watching)
    try:
        while board.current.is_ready and not lost.done():
            due = asyncio.ensure_future(demand.until_stop_due())
            try:
                await asyncio.wait({lost, due}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                due.cancel()
            if not lost.done() and board.current.is_ready and demand.is_stop_due:
                board.rest()
                return None
        return await lost
    finally:
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
