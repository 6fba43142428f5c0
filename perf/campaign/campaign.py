"""Plays many inputs at once, while clients that behave are served and the program is watched."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from perf.campaign.client import Client
from perf.campaign.engine_client import EngineClient
from perf.campaign.engine_inputs import engine_input
from perf.campaign.improper_inputs import client_input
from perf.campaign.inputs import KEY, Input, status, streams
from perf.campaign.proper_inputs import words
from tests.support.raw_http import post_json, request

CONCURRENCY = 64
CONTROL_SECONDS = 0.1
_CONTROL_CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 7, "stream": True}
_TRIES = 5

Make = Callable[[int], Client]
"""Makes the client that plays the input of an index."""


def client_side(port: int, seed: int) -> Make:
    """Make clients that do what clients may do."""
    return lambda index: Client(port, client_input(seed, index), index)


def engine_side(port: int, seed: int) -> Make:
    """Make clients of an engine that answers as it should not; it must stand in for the program's own."""
    return lambda index: EngineClient(port, engine_input(seed, index), index)


@dataclass
class Report:
    """What a campaign came to."""

    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)
    """Seconds that a probe and a chat of a client that behaves took together."""


class Campaign:
    """Plays inputs of one side.

    Args:
        port: the program's.
        patience: the shortest of the program's time limits, in seconds.
        make: makes the clients.
        side: for the report.
    """

    def __init__(self, port: int, patience: float, make: Make, side: str) -> None:
        self._port = port
        self._patience = patience
        self._make = make
        self._side = side
        self._report = Report()
        self._late: list[int] = []

    async def run(self, indices: Iterable[int]) -> Report:
        """Play the inputs of these indices."""
        waiting = iter(indices)
        controlling = asyncio.ensure_future(self._control())

        async def work() -> None:
            for index in waiting:
                await self._play(index)

        try:
            await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
            for index in self._late:
                await self._play_again(index)
        finally:
            controlling.cancel()
            await asyncio.gather(controlling, return_exceptions=True)
        return self._report

    async def _play(self, index: int) -> None:
        client = self._make(index)
        self._report.kinds[client.kind] += 1
        fault, may_be_ours = await self._judged(client)
        if may_be_ours:
            self._late.append(index)
        elif fault is not None:
            self._note(index, client.kind, fault)

    async def _play_again(self, index: int) -> None:
        """Play an input with nothing beside it: it had gone wrong, and its client itself may have been late."""
        for number in range(1, _TRIES + 1):
            client = self._make(index)
            fault, may_be_ours = await self._judged(client)
            if fault is None:
                return
            if not may_be_ours or number == _TRIES:
                self._note(index, client.kind, fault)
                return

    async def _judged(self, client: Client) -> tuple[str | None, bool]:
        """Play a client; returns what was wrong, and whether the machine may have been too slow for it."""
        began = time.monotonic()
        fault = await client.play()
        took = time.monotonic() - began
        return fault, fault is not None and not client.was_silent and took > self._patience / 2

    def _note(self, index: int, kind: str, fault: str) -> None:
        self._report.faults.append(f"--side {self._side} --only {index} ({kind}): {fault}")

    async def _control(self) -> None:
        probe = Input("probe", (request("GET", "/livez"),), answers=(status(200),))
        asked = post_json("/v1/chat/completions", _CONTROL_CHAT, f"Authorization: Bearer {KEY}")
        chat = Input("chat", (asked,), answers=(streams(words(7)),))
        while True:
            began = time.monotonic()
            for one in (probe, chat):
                for _ in range(_TRIES):
                    fault, may_be_ours = await self._judged(Client(self._port, one, 0))
                    if not may_be_ours:
                        break
                if fault is not None:
                    self._report.faults.append(f"{one.kind} of a client that behaves: {fault}")
            self._report.controls.append(time.monotonic() - began)
            await asyncio.sleep(CONTROL_SECONDS)
