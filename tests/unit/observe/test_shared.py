"""One answer for many who ask: how often it is made, and what becomes of it."""

from __future__ import annotations

import asyncio

from vllm_engine.gateway.observe.shared_answer import Shared


async def test_made_once_for_all() -> None:
    """All who ask while it is made, and until it is stale, get the same object; one that leaves stops nobody."""
    made, now, may_end = [0], [0.0], asyncio.Event()

    async def make() -> list[int]:
        made[0] += 1
        await may_end.wait()
        return list(made)

    shared = Shared(make, 1.0, lambda: now[0])
    first, *others = [asyncio.create_task(shared.get()) for _ in range(1000)]
    await asyncio.sleep(0)
    first.cancel()
    now[0] = 5.0
    may_end.set()
    answer, *same = await asyncio.gather(*others)
    assert answer == [1] and all(one is answer for one in same)
    now[0] = 5.9
    assert await shared.get() is answer
    now[0] = 6.0
    assert await shared.get() == [2]
    kept_for_nobody = Shared(make, 0.0)
    assert [await kept_for_nobody.get() for _ in range(2)] == [[3], [4]]
