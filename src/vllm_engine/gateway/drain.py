"""The orderly end of service: running requests end, and no others begin."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from vllm_engine.gateway.app import Gateway
from vllm_engine.gateway.front import Front

LAST_ANSWERS_SECONDS = 5.0
"""For those that are ended when the drain has taken too long."""

logger = logging.getLogger("gateway")


async def drain(
    front: Front,
    begin: Callable[[], None],
    hurry: asyncio.Event,
    *,
    lame_duck_seconds: float,
    timeout_seconds: float,
    until: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Let running requests end, admit no others, and end what is left.

    `begin` has the supervisor drain too; `hurry` ends each wait at once; `until` waits for the end of what is
    no request to this gateway. See docs/operate/lifecycle.md.
    """
    gateway = front.gateway
    logger.info("stopping: %d request(s) have %g s to end", gateway.in_flight, timeout_seconds)
    if lame_duck_seconds:
        front.begin_lame_duck()
    begin()
    if lame_duck_seconds:
        await _first_of(hurry.wait(), seconds=lame_duck_seconds)
    front.begin_drain()
    await _first_of(_all_ended(gateway, until), hurry.wait(), seconds=timeout_seconds)
    if gateway.in_flight:
        logger.warning("ending %d request(s): DRAIN_TIMEOUT_SECONDS is over", gateway.in_flight)
        gateway.end_all()
        await _first_of(gateway.until_idle(), seconds=LAST_ANSWERS_SECONDS)


async def _all_ended(gateway: Gateway, until: Callable[[], Awaitable[object]] | None) -> None:
    await gateway.until_idle()
    if until is not None:
        await until()


async def _first_of(*waits: Awaitable[object], seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
