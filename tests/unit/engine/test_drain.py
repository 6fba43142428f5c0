"""The order and the times of a stop, on a virtual clock."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.gateway.drain import drain
from vllm_engine.gateway.front import Front


class Clients:
    """The front and its gateway: requests that end by themselves after some seconds, or when they are ended."""

    def __init__(self, seconds: float, *, obedient: bool) -> None:
        self.gateway = self
        self.did: list[tuple[float, str]] = []
        self._loop = asyncio.get_running_loop()
        self._obedient = obedient
        self._end = self._loop.time() + seconds

    def note(self, what: str) -> None:
        self.did.append((self._loop.time() - 1000.0, what))

    @property
    def in_flight(self) -> int:
        return int(self._end > self._loop.time())

    async def until_idle(self) -> None:
        await asyncio.sleep(max(0.0, self._end - self._loop.time()))

    def begin_lame_duck(self) -> None:
        self.note("lame duck")

    def begin_drain(self) -> None:
        self.note("drain")

    def end_all(self) -> None:
        self.note("end all")
        if self._obedient:
            self._end = 0.0


ENGINE, DRAIN, LAME = (0, "engine"), (0, "drain"), (0, "lame duck")
STOPS: dict[str, tuple[Any, ...]] = {
    # for how long its requests last, lame duck, second signal, obedience: what is done, and when it is over
    "idle": (0, 0, None, True, [ENGINE, DRAIN], 0),
    "in time": (7, 0, None, True, [ENGINE, DRAIN], 7),
    "lame duck": (7, 5, None, True, [LAME, ENGINE, (5, "drain")], 7),
    "too long": (99, 0, None, True, [ENGINE, DRAIN, (25, "end all")], 25),
    "does not end": (99, 5, None, False, [LAME, ENGINE, (5, "drain"), (30, "end all")], 35),
    "second signal": (99, 0, 3, True, [ENGINE, DRAIN, (3, "end all")], 3),
    "second in the lame duck": (99, 5, 3, True, [LAME, ENGINE, (3, "drain"), (3, "end all")], 3),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
@in_virtual_time
async def test_drain(stop: tuple[Any, ...]) -> None:
    seconds, lame_duck, hurries_at, obedient, did, over = stop
    clients, hurry, loop = Clients(seconds, obedient=obedient), asyncio.Event(), asyncio.get_running_loop()
    if hurries_at is not None:
        loop.call_later(hurries_at, hurry.set)
    await drain(
        cast(Front, clients),
        lambda: clients.note("engine"),
        hurry,
        lame_duck_seconds=lame_duck,
        timeout_seconds=25,
    )
    assert (clients.did, loop.time() - 1000.0) == (did, over)
