"""One answer for many who ask: how often it is made, and what becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from vllm_engine.gateway.observe.shared_answer import Shared


class Maker:
    """Makes numbered answers, each when it is let."""

    def __init__(self) -> None:
        self.made = 0
        self.may_end = asyncio.Event()
        self.now = 0.0

    async def make(self) -> bytes:
        self.made += 1
        await self.may_end.wait()
        return b"answer %d" % self.made


@pytest.fixture
async def maker() -> Maker:
    """One that has made nothing yet."""
    return Maker()


async def test_made_once_for_all(maker: Maker) -> None:
    """All who ask while it is made get the same object, and so do all who come before it is stale."""
    shared = Shared(maker.make, 1.0, lambda: maker.now)
    asking = [asyncio.create_task(shared.get()) for _ in range(1000)]
    await asyncio.sleep(0)
    maker.now = 5.0
    maker.may_end.set()
    first, *others = await asyncio.gather(*asking)
    assert maker.made == 1
    assert all(other is first for other in others)
    maker.now = 5.9
    assert await shared.get() is first
    maker.now = 6.0
    assert await shared.get() == b"answer 2"


async def test_who_leaves_stops_nobody(maker: Maker) -> None:
    """The one who asked first may go: the others' answer is made all the same."""
    shared = Shared(maker.make, 1.0, lambda: maker.now)
    first, second = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    maker.may_end.set()
    assert await second == b"answer 1"


async def test_not_kept(maker: Maker) -> None:
    """With 0 seconds nothing is shared."""
    shared = Shared(maker.make, 0.0)
    maker.may_end.set()
    assert [await shared.get(), await shared.get()] == [b"answer 1", b"answer 2"]
