"""Plays many inputs at once, while clients that behave are served and the program is watched."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from tests.campaign.client import Client, patiently
from tests.campaign.engine_client import EngineClient
from tests.campaign.engine_inputs import engine_input
from tests.campaign.improper_inputs import client_input
from tests.campaign.inputs import KEY, Input, status, streams
from tests.campaign.proper_inputs import words
from tests.raw_http import post_json, request

CONCURRENCY = 64
CONTROL_SECONDS = 0.1
_CONTROL_CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 7, "stream": True}

Play = Callable[[int], Awaitable[tuple[str, str | None]]]
"""Plays the input of an index; returns its kind and what was wrong."""


@dataclass
class Report:
    """What a campaign came to."""

    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    controls: list[float] = field(default_factory=list)
    """Seconds that a probe and a chat of a client that behaves took together."""


async def campaign(port: int, patience: float, each: Play, indices: Iterable[int], side: str) -> Report:
    """Play the inputs of these indices."""
    report = Report()
    waiting = iter(indices)
    controlling = asyncio.ensure_future(_control(port, patience, report))

    async def work() -> None:
        for index in waiting:
            kind, fault = await each(index)
            report.kinds[kind] += 1
            if fault is not None:
                report.faults.append(f"--side {side} --only {index} ({kind}): {fault}")

    try:
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    finally:
        controlling.cancel()
        await asyncio.gather(controlling, return_exceptions=True)
    return report


def client_side(port: int, patience: float, seed: int) -> Play:
    """Play what clients do."""

    async def each(index: int) -> tuple[str, str | None]:
        one = client_input(seed, index)
        return one.kind, await patiently(lambda: Client(port, one, index), patience)

    return each


def engine_side(port: int, patience: float, seed: int) -> Play:
    """Play what clients of a bad engine see; it must stand in for the program's own."""

    async def each(index: int) -> tuple[str, str | None]:
        one = engine_input(seed, index)
        return one.kind, await patiently(lambda: EngineClient(port, one, index), patience)

    return each


async def _control(port: int, patience: float, report: Report) -> None:
    probe = Input("probe", (request("GET", "/livez"),), answers=(status(200),))
    bearer = f"Authorization: Bearer {KEY}"
    asked = post_json("/v1/chat/completions", _CONTROL_CHAT, bearer)
    chat = Input("chat", (asked,), answers=(streams(words(7)),))
    while True:
        began = time.monotonic()
        for one in (probe, chat):
            if fault := await patiently(partial(Client, port, one, 0), patience):
                report.faults.append(f"{one.kind} of a client that behaves: {fault}")
        report.controls.append(time.monotonic() - began)
        await asyncio.sleep(CONTROL_SECONDS)
