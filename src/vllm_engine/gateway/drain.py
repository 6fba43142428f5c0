"""The orderly end of service: running requests end, and no others begin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vllm_engine.gateway.front import Front

LAST_ANSWERS_SECONDS = 5.0
"""For those that are ended when the drain has taken too long."""

logger = logging.getLogger("gateway")


@dataclass(frozen=True)
class Drain:
    """The orderly end of service: docs/operate/lifecycle.md, section SIGTERM.

    Attributes:
        front: what clients reach.
        begin: has the supervisor drain too.
    """

    front: Front
    begin: Callable[[], None]
    lame_duck_seconds: float
    timeout_seconds: float

    async def run(self, hurry: asyncio.Event) -> None:
        """Let running requests end, admit no others, and end what is left; `hurry` ends each wait at once."""
        front, gateway = self.front, self.front.gateway
        logger.info("stopping: %d request(s) have %g s to end", gateway.in_flight, self.timeout_seconds)
        if self.lame_duck_seconds:
            front.begin_lame_duck()
        self.begin()
        if self.lame_duck_seconds:
            await _first_of(hurry.wait(), seconds=self.lame_duck_seconds)
        front.begin_drain()
        await _first_of(gateway.until_idle(), hurry.wait(), seconds=self.timeout_seconds)
        if gateway.in_flight:
            logger.warning("ending %d request(s): DRAIN_TIMEOUT_SECONDS is over", gateway.in_flight)
            gateway.end_all()
            await _first_of(gateway.until_idle(), seconds=LAST_ANSWERS_SECONDS)


async def _first_of(*waits: Awaitable[object], seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
