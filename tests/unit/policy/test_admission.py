"""Admission: bounded, fair between keys, honest about when to come back, and never leaking a place."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from tests.support.virtual.virtual_time import in_virtual_time, settle
from vllm_engine.gateway.policy.admission import KEYS_BEFORE_SWEEP, Admission, Claim, Slot
from vllm_engine.gateway.policy.admission_limits import Limits, whole_seconds
from vllm_engine.gateway.rejection import Rejected

Waiting = asyncio.Task[Slot]


def admission(places: int = 1, queue: int = 100, *, timeout: float = 30, **of_a_key: int) -> Admission:
    per_key = (of_a_key.get(name, 0) for name in ("key_open", "key_requests", "key_tokens"))
    return Admission(Limits(places, queue, timeout, *per_key), clock=asyncio.get_running_loop().time)


async def arrive(gate: Admission, *keys: str | None, claim: Claim = Claim()) -> list[Waiting]:  # noqa: B008 - immutable
    tasks = [asyncio.ensure_future(gate.enter(key, claim)) for key in keys]
    await settle()
    return tasks


async def refused(gate: Admission, key: str | None = "a") -> tuple[int, str, int | None]:
    with pytest.raises(Rejected) as caught:
        await gate.enter(key)
    return caught.value.status, caught.value.reason, caught.value.retry_after_seconds


def reason(task: Waiting) -> str:
    error = task.exception()
    assert isinstance(error, Rejected)
    return error.reason


async def serve(gate: Admission, key: str, seconds: float) -> None:
    slot = await gate.enter(key)
    await asyncio.sleep(seconds)
    slot.leave()


@in_virtual_time
async def test_without_limits_nothing_waits() -> None:
    gate = admission(places=0, queue=0, timeout=0)
    with pytest.raises(StopIteration):  # nor suspends
        gate.enter("a").send(None)
    slots = [await gate.enter("a") for _ in range(1000)]
    for slot in slots:
        slot.record_tokens(10**9, 10**9)
        slot.leave()
        slot.leave()  # a second time does nothing
    assert (gate.in_flight, gate.waiting) == (1, 0)


@in_virtual_time
async def test_a_full_queue_is_shared() -> None:
    """A newcomer displaces the newest of the key that has most, until shares are equal; turns go round the keys."""
    gate = admission(queue=4)
    holder = await gate.enter("x")
    of_a = await arrive(gate, *"aaaa")
    assert (await refused(gate, "a"))[:2] == (429, "saturated")
    of_b = await arrive(gate, *"bb")
    assert [task.done() and reason(task) for task in of_a] == [False, False, "saturated", "saturated"]
    assert [(await refused(gate, key))[1] for key in "ab"] == ["saturated"] * 2
    holder.leave()
    for task in (of_a[0], of_b[0], of_a[1], of_b[1]):
        (await task).leave()


@in_virtual_time
async def test_the_deadline_is_for_waiting_only() -> None:
    gate = admission(timeout=30)
    holder = await gate.enter("a")
    served, late = await arrive(gate, "b", "c")
    await asyncio.sleep(29.9)
    holder.leave()
    await asyncio.sleep(0.2)
    with pytest.raises(Rejected, match=r"waited 30 s .*QUEUE_TIMEOUT_SECONDS=30") as caught:
        await late
    assert (caught.value.reason, caught.value.has_waited) == ("queue_timeout", True)
    assert (served.done(), gate.in_flight, gate.waiting) == (True, 1, 0)


@in_virtual_time
async def test_a_drain_refuses_who_waits_and_who_comes() -> None:
    gate = admission()
    holder = await gate.enter("a")
    waiting = await arrive(gate, *"abc")
    gate.close("The server is shutting down")
    await settle()
    assert [reason(task) for task in waiting] == ["draining"] * 3
    assert await refused(gate, "d") == (503, "draining", 5)
    with pytest.raises(Rejected, match="shutting down"):
        gate.check_open()
    assert gate.in_flight == 1
    holder.leave()
    assert (gate.in_flight, gate.waiting) == (0, 0)


@in_virtual_time
async def test_retry_after_when_saturated() -> None:
    """The time until those that wait are served and one more place is free, at the latest pace."""
    kept = []
    for seconds, places, waiting, expected in (
        (4, 2, 0, 2), (4, 2, 3, 8), (5, 4, 2, 4), (0.001, 2, 3, 1), (600, 2, 3, 60), (0, 4, 0, 1),
    ):  # fmt: skip
        gate = admission(places, waiting, timeout=0)
        for _ in range(40):  # what requests took long ago is forgotten
            await serve(gate, "a", 1)
        for _ in range(200):
            await serve(gate, "a", seconds)
        kept += await arrive(gate, *"a" * (places + waiting))
        assert (await refused(gate))[2] == expected
    # An engine that ends nothing is followed.
    gate = admission(places=2, queue=0)
    await asyncio.sleep(1000)  # idle, which says nothing about the pace
    kept += await arrive(gate, "a", "a")
    for pause, expected in ((0, 1), (40, 20), (1000, 60)):
        await asyncio.sleep(pause)
        assert (await refused(gate))[2] == expected


@in_virtual_time
async def test_a_key_may_have_so_many_open() -> None:
    gate = admission(places=3, key_open=2)
    await serve(gate, "a", 10)
    first, _ = await gate.enter("a"), await gate.enter("a")
    assert await refused(gate, "a") == (429, "key_concurrency", 5)
    await gate.enter("b")
    waiting = await arrive(gate, *"bcc")
    assert (await refused(gate, "b"))[2] == 10  # one of b runs
    assert (await refused(gate, "c"))[2] == 14  # c's turns come with four endings
    first.leave()
    await settle()
    assert [task.done() for task in waiting] == [True, False, False]


@in_virtual_time
async def test_requests_and_tokens_per_minute() -> None:
    """The longer of two waits is told, exactly; clients without a key share one allowance."""
    gate = admission(places=0, key_requests=20, key_tokens=600)
    for key in ("a", None):
        slots = [await gate.enter(key) for _ in range(20)]
        assert await refused(gate, key) == (429, "key_requests", 3)
        await asyncio.sleep(2.5)
        assert (await refused(gate, key))[2] == 1
        await asyncio.sleep(0.5)
        slots.append(await gate.enter(key))
        slots.pop().record_tokens(599, 2001)  # 2000 in debt, ten of which flow back a second
        assert await refused(gate, key) == (429, "key_tokens", 201)  # known, so not cut off at 60 s
        slots.pop().record_tokens(0, 100)
        assert (await refused(gate, key))[2] == 211
    with pytest.raises(Rejected, match=r"Clients without an API key.*KEY_TOKENS_PER_MINUTE=600"):
        await gate.enter(None)
    await gate.enter("b")
    await asyncio.sleep(211)
    await gate.enter("a")


@in_virtual_time
async def test_who_comes_back_on_time_is_served() -> None:
    """The told wait is enough, whatever fractions the refill adds up to."""
    for per_minute in (1, 3, 7, 60, 600, 1001):
        gate = admission(places=0, key_requests=per_minute, key_tokens=per_minute)
        for round_ in range(60):
            try:
                slot = await gate.enter("a")
            except Rejected as rejected:
                await asyncio.sleep(rejected.retry_after_seconds or 0)
                slot = await gate.enter("a")
            slot.record_tokens(round_ % 3, 1)
            slot.leave()
    for seconds, told in ((0, 1), (0.2, 1), (30, 30), (30 + 1e-9, 30), (30.01, 31)):
        assert whole_seconds(seconds) == told


@in_virtual_time
async def test_prompts_are_charged_before_they_run() -> None:
    """And given back where they do not: refused, timed out, gone while waiting; the usage replaces the estimate."""
    gate = admission(queue=1, timeout=1, key_requests=2, key_tokens=60)
    holder = await gate.enter("x", Claim(tokens=60))
    assert (await refused(gate, "x"))[1] == "key_tokens"
    holder.record_tokens(30, 0)
    for _ in range(5):
        (waiting,) = await arrive(gate, "a", claim=Claim(tokens=600))
        assert (await refused(gate, "a"))[1] == "key_tokens"
        waiting.cancel()
        (waiting,) = await arrive(gate, "a")
        assert (await refused(gate, "a"))[1] == "saturated"
        await asyncio.sleep(1)
        assert reason(waiting) == "queue_timeout"
    holder.leave()
    for _ in range(2):
        (await gate.enter("a")).leave()
    assert (await refused(gate, "a"))[1] == "key_requests"


@in_virtual_time
async def test_idle_keys_are_forgotten() -> None:
    """A key with nothing open and nothing owed takes no memory for ever; any other is remembered."""
    gate = admission(timeout=0, key_requests=60, key_tokens=60)
    debtor = await gate.enter("debtor")
    debtor.record_tokens(10**7, 0)
    debtor.leave()
    late = await gate.enter("late")
    late.leave()
    runner = await gate.enter("runner")
    (waiting,) = await arrive(gate, "waiting")
    for number in range(1000):
        (gone,) = await arrive(gate, f"key {number}")
        gone.cancel()
        await asyncio.sleep(1)
        assert len(gate._keys) <= KEYS_BEFORE_SWEEP
    assert {"debtor", "runner", "waiting"} <= set(gate._keys)
    assert "late" not in gate._keys
    late.record_tokens(100, 19)  # usage that is known late is charged all the same
    runner.leave()
    (await waiting).leave()
    assert (await refused(gate, "late"))[2] == 60


@in_virtual_time
async def test_a_batch_waits_for_all_its_places() -> None:
    """Nobody overtakes it meanwhile, unless it gives up or waits too long; it frees all of them at once."""
    gate = admission(places=4, timeout=30)
    one, two = await gate.enter("a"), await gate.enter("a")
    for is_cancelled in (True, False):
        (batch,) = await arrive(gate, "b", claim=Claim(3))
        if not is_cancelled:
            await asyncio.sleep(29)
        (single,) = await arrive(gate, "c")
        assert (gate.in_flight, gate.waiting) == (2, 2)
        if is_cancelled:
            batch.cancel()
        (await single).leave()
        assert (gate.in_flight, gate.waiting) == (2, 0)
    assert reason(batch) == "queue_timeout"
    (batch,) = await arrive(gate, "b", claim=Claim(3))
    one.leave()
    slot = await batch
    assert gate.in_flight == 4
    slot.leave()
    two.leave()
    assert gate.in_flight == 0
    # A larger one takes all places, and of its key what that may have open; all of its requests count.
    gate = admission(places=4, key_open=2, key_requests=60)
    slot = await gate.enter("a", Claim(100))
    assert gate.in_flight == 4
    slot.leave()
    assert (gate.in_flight, await refused(gate, "a")) == (0, (429, "key_requests", 41))


class Soak:
    """Random clients of one admission, and what its counts ought to be."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.gate = admission(places=5, queue=6, timeout=3, key_open=9, key_requests=900, key_tokens=1200)
        self.held: list[tuple[str, int, Slot]] = []
        self.waiting: dict[Waiting, tuple[str, int]] = {}
        self.outcomes: Counter[str] = Counter()

    def act(self) -> None:
        action = self.dice.random()
        if action < 0.55:
            key = self.dice.choice("aaaabbc")
            requests = self.dice.choice((1, 1, 1, 2, 7))
            claim = Claim(requests, self.dice.randrange(30))
            self.waiting[asyncio.ensure_future(self.gate.enter(key, claim))] = (key, min(5, requests))
        elif action < 0.8 and self.held:
            *_, slot = self.held.pop(self.dice.randrange(len(self.held)))
            slot.record_tokens(self.dice.randrange(50), self.dice.randrange(100))
            slot.leave()
        elif action < 0.9 and self.waiting:
            self.dice.choice(list(self.waiting)).cancel()

    async def agree(self) -> None:
        """Let everything come to rest, then compare the counts."""
        await settle()
        for task in [task for task in self.waiting if task.done()]:
            self.outcomes[self.end(task, *self.waiting.pop(task))] += 1
        gate = self.gate
        assert gate.in_flight == sum(places for _, places, _ in self.held) <= 5
        assert gate.waiting == len(self.waiting) <= 6
        assert not self.waiting or gate.in_flight + max(places for _, places in self.waiting.values()) > 5
        for name, state in gate._keys.items():
            assert state.in_flight == sum(places for key, places, _ in self.held if key == name)
            assert state.waiting == sum(places for key, places in self.waiting.values() if key == name)

    def end(self, task: Waiting, key: str, places: int) -> str:
        if task.cancelled():
            return "cancelled"
        if isinstance(error := task.exception(), Rejected):
            return error.reason
        self.held.append((key, places, task.result()))
        return "served"


@in_virtual_time
async def test_nothing_leaks() -> None:
    """Thousands of arrivals, departures, cancellations and timeouts in any order: the counts agree."""
    soak = Soak(seed=1)
    for _ in range(4000):
        for _ in range(soak.dice.randrange(4)):  # several things in one step of the loop
            soak.act()
        # And others in the very step in which a deadline passes.
        asyncio.get_running_loop().call_later(soak.dice.randrange(4), soak.act)
        await asyncio.sleep(soak.dice.choice((0, 0, 1)))
        if soak.dice.random() < 0.5:
            await soak.agree()
    await asyncio.sleep(4)
    soak.gate.close("end of the test")
    await soak.agree()
    kinds = ("served", "cancelled", "saturated", "key_concurrency", "key_tokens", "queue_timeout")
    assert all(soak.outcomes[kind] for kind in kinds), soak.outcomes
