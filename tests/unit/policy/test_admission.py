"""Admission: bounded, fair between keys, honest about when to come back, and never leaking a place."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.virtual_time import in_virtual_time
from vllm_engine.gateway.policy.admission import KEYS_BEFORE_SWEEP, Admission, Claim, KeyLoad, Slot
from vllm_engine.gateway.policy.admission_limits import Limits, whole_seconds
from vllm_engine.gateway.policy.fairness import FairQueue
from vllm_engine.gateway.rejection import Rejected


def admission(
    places: int = 1,
    queue: int = 100,
    *,
    timeout: float = 30,
    key_open: int = 0,
    key_requests: int = 0,
    key_tokens: int = 0,
) -> Admission:
    """Return an admission on the running loop's clock."""
    limits = Limits(places, queue, timeout, key_open, key_requests, key_tokens)
    return Admission(limits, clock=asyncio.get_running_loop().time)


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(4):
        await asyncio.sleep(0)


async def arrive(gate: Admission, *keys: str | None) -> list[asyncio.Task[Slot]]:
    """Start one request for each of the keys, in this order."""
    tasks = [asyncio.ensure_future(gate.enter(key)) for key in keys]
    await settle()
    return tasks


async def refused(gate: Admission, key: str | None = "a") -> Rejected:
    """Return the refusal that a request of this key gets."""
    with pytest.raises(Rejected) as caught:
        await gate.enter(key)
    return caught.value


def refusal(task: asyncio.Task[Slot]) -> Rejected:
    """Return why a request was refused."""
    error = task.exception()
    assert isinstance(error, Rejected)
    return error


async def serve(gate: Admission, key: str, seconds: float) -> None:
    """Serve one request."""
    slot = await gate.enter(key)
    await asyncio.sleep(seconds)
    slot.leave()


async def order_of_service(gate: Admission, holder: Slot, *keys: str) -> str:
    """Queue one request for each key behind `holder` and return the keys in the order of service."""
    served: list[str] = []

    async def one(key: str) -> None:
        slot = await gate.enter(key)
        served.append(key)
        slot.leave()

    tasks = [asyncio.ensure_future(one(key)) for key in keys]
    await settle()
    holder.leave()
    await asyncio.gather(*tasks)
    return "".join(served)


@in_virtual_time
async def test_free_place_is_taken_without_suspending() -> None:
    """Where there is room nothing is awaited: the first step of the coroutine returns the slot."""
    gate = admission(places=2)
    with pytest.raises(StopIteration) as stopped:
        gate.enter("a").send(None)
    slot = stopped.value.value
    assert isinstance(slot, Slot)
    assert (gate.in_flight, gate.waiting) == (1, 0)


@in_virtual_time
async def test_leave_twice_frees_one_place() -> None:
    """A second leave does nothing, also when another holds the place by then."""
    gate = admission()
    first = await gate.enter("a")
    first.leave()
    await gate.enter("b")
    first.leave()
    assert gate.in_flight == 1


@in_virtual_time
async def test_zero_is_no_limit() -> None:
    """With every limit 0 nothing is refused and nothing waits."""
    gate = admission(places=0, queue=0, timeout=0)
    slots = [await gate.enter("a") for _ in range(1000)]
    for slot in slots:
        slot.record_tokens(10**9, 10**9)
        slot.leave()
    assert (gate.in_flight, gate.waiting) == (0, 0)


@in_virtual_time
async def test_load_by_key() -> None:
    """What each key has open is told, running and waiting apart."""
    gate = admission()
    holder = await gate.enter("a")
    (waiting,) = await arrive(gate, "b")
    assert gate.by_key() == {"a": KeyLoad(1, 0), "b": KeyLoad(0, 1)}
    holder.leave()
    await waiting
    assert gate.by_key() == {"b": KeyLoad(1, 0)}


@in_virtual_time
async def test_newcomer_does_not_overtake() -> None:
    """A place that becomes free is the waiter's, though a newcomer asks before the waiter has run."""
    gate = admission()
    holder = await gate.enter("a")
    (waiting,) = await arrive(gate, "b")
    holder.leave()
    (newcomer,) = await arrive(gate, "c")
    assert waiting.done()
    assert not newcomer.done()
    (await waiting).leave()
    (await newcomer).leave()


@pytest.mark.parametrize(
    ("arrivals", "served"),
    [
        ("aaabbb", "ababab"),
        ("aaaabcc", "abcacaa"),
        ("abcabc", "abcabc"),
        ("baaa", "baaa"),
    ],
)
@in_virtual_time
async def test_turns_go_round_the_keys(arrivals: str, served: str) -> None:
    """Waiting requests are served round-robin by key."""
    gate = admission()
    assert await order_of_service(gate, await gate.enter("x"), *arrivals) == served


@in_virtual_time
async def test_thousand_waiting_do_not_starve_another_key() -> None:
    """Behind a thousand requests of one key, another key's is second."""
    gate = admission(queue=2000)
    order = await order_of_service(gate, await gate.enter("x"), *"a" * 1000, "b")
    assert order.index("b") == 1


@in_virtual_time
async def test_first_come_first_served_within_a_key() -> None:
    """Requests of one key are served in the order in which they came, whoever else waits."""
    gate = admission(queue=300)
    holder = await gate.enter("x")
    served: list[tuple[str, int]] = []

    async def one(key: str, number: int) -> None:
        slot = await gate.enter(key)
        served.append((key, number))
        slot.leave()

    arrivals = [(random.Random(number).choice("abc"), number) for number in range(300)]
    tasks = [asyncio.ensure_future(one(*arrival)) for arrival in arrivals]
    await settle()
    holder.leave()
    await asyncio.gather(*tasks)
    for key in "abc":
        assert [item for item in served if item[0] == key] == [item for item in arrivals if item[0] == key]


@in_virtual_time
async def test_one_key_alone_may_fill_the_queue() -> None:
    """Nothing is kept free for keys that do not come."""
    gate = admission(queue=4)
    await gate.enter("a")
    await arrive(gate, *"aaaa")
    assert gate.waiting == 4
    assert (await refused(gate, "a")).reason == "saturated"


@in_virtual_time
async def test_full_queue_is_shared() -> None:
    """Newcomers with less take the place of the newest of who has most, until shares are equal."""
    gate = admission(queue=4)
    holder = await gate.enter("x")
    of_a = await arrive(gate, *"aaaa")
    of_b = await arrive(gate, *"bb")
    assert [task.done() for task in of_a] == [False, False, True, True]
    assert refusal(of_a[3]).status == 429
    assert refusal(of_a[3]).reason == "saturated"
    assert "MAX_QUEUE=4" in refusal(of_a[2]).message
    for key in "ab":  # two each: neither takes from the other
        assert (await refused(gate, key)).reason == "saturated"
    (of_c,) = await arrive(gate, "c")  # none yet: one of the two has to yield
    assert refusal(of_a[1]).reason == "saturated"
    assert gate.by_key() == {
        "a": KeyLoad(0, 1),
        "b": KeyLoad(0, 2),
        "c": KeyLoad(0, 1),
        "x": KeyLoad(1, 0),
    }
    holder.leave()
    for task in (of_a[0], of_b[0], of_c, of_b[1]):
        (await task).leave()
    assert (gate.in_flight, gate.waiting) == (0, 0)


@in_virtual_time
async def test_no_queue() -> None:
    """With MAX_QUEUE=0 a request is served at once or refused at once."""
    gate = admission(places=1, queue=0)
    slot = await gate.enter("a")
    rejected = await refused(gate, "b")
    assert (rejected.status, rejected.reason) == (429, "saturated")
    assert "MAX_IN_FLIGHT=1" in str(rejected)
    slot.leave()
    await gate.enter("b")


@in_virtual_time
async def test_deadline() -> None:
    """Who has waited for the whole of QUEUE_TIMEOUT_SECONDS is refused, and its place is free."""
    gate = admission(timeout=30)
    await gate.enter("a")
    (late,) = await arrive(gate, "b")
    await asyncio.sleep(29.9)
    assert not late.done()
    await asyncio.sleep(0.2)
    assert (refusal(late).status, refusal(late).reason) == (429, "queue_timeout")
    assert "QUEUE_TIMEOUT_SECONDS=30" in refusal(late).message
    assert (gate.in_flight, gate.waiting) == (1, 0)


@in_virtual_time
async def test_deadline_does_not_reach_who_was_served() -> None:
    """The deadline is for waiting, not for the request."""
    gate = admission(timeout=30)
    holder = await gate.enter("a")
    (waiting,) = await arrive(gate, "b")
    holder.leave()
    await asyncio.sleep(100)
    assert gate.in_flight == 1
    (await waiting).leave()
    assert gate.in_flight == 0


@in_virtual_time
async def test_no_deadline() -> None:
    """QUEUE_TIMEOUT_SECONDS=0 waits as long as the client does."""
    gate = admission(timeout=0)
    holder = await gate.enter("a")
    (waiting,) = await arrive(gate, "b")
    await asyncio.sleep(86400)
    holder.leave()
    await waiting


@in_virtual_time
async def test_leaving_client_frees_its_place_in_the_queue() -> None:
    """A cancelled request no longer waits, and who stood behind it is next."""
    gate = admission(queue=2)
    holder = await gate.enter("a")
    gone, behind = await arrive(gate, *"bb")
    gone.cancel()
    await settle()
    assert gate.waiting == 1
    (another,) = await arrive(gate, "c")
    holder.leave()
    for task in (behind, another):
        (await task).leave()
    assert gate.in_flight == 0


@pytest.mark.parametrize("others", ["", "b", "bb"])
@in_virtual_time
async def test_cancelled_after_the_place_was_handed_over(others: str) -> None:
    """Handed a place and cancelled in the same step: the place goes to the next, or is free."""
    gate = admission()
    holder = await gate.enter("a")
    gone, *behind = await arrive(gate, "b", *others)
    holder.leave()
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await settle()
    assert gate.in_flight == (1 if others else 0)
    for task in behind:
        (await task).leave()
    assert (gate.in_flight, gate.waiting, gate.by_key()) == (0, 0, {})


@pytest.mark.parametrize("others", ["", "b", "bb"])
@in_virtual_time
async def test_cancelled_before_the_place_was_handed_over(others: str) -> None:
    """Cancelled, and a place becomes free before the task could take notice: it is not given to it."""
    gate = admission()
    holder = await gate.enter("a")
    gone, *behind = await arrive(gate, "b", *others)
    gone.cancel()
    holder.leave()
    await settle()
    assert gone.cancelled()
    for task in behind:
        (await task).leave()
    assert (gate.in_flight, gate.waiting, gate.by_key()) == (0, 0, {})


@in_virtual_time
async def test_cancelled_and_refused_at_once() -> None:
    """Refused by the drain and cancelled in the same step: nobody's place is given away."""
    gate = admission()
    holder = await gate.enter("a")
    (gone,) = await arrive(gate, "b")
    gate.close("closing")
    gone.cancel()
    await settle()
    assert gone.cancelled()
    assert gate.in_flight == 1
    holder.leave()
    assert gate.in_flight == 0


@pytest.mark.parametrize("order", ["leave", "cancel", "leave cancel", "cancel leave"])
@in_virtual_time
async def test_deadline_in_the_same_step(order: str) -> None:
    """The deadline passes just after the waiter got its place or its client left: it changes nothing."""
    gate = admission(timeout=30)
    loop = asyncio.get_running_loop()
    holder = await gate.enter("a")
    waiting: list[asyncio.Task[Slot]] = []

    def happen() -> None:
        for what in order.split():
            if what == "leave":
                holder.leave()
            else:
                waiting[0].cancel()

    # Before the deadline's own timer, which is for the same instant: both run in one step.
    loop.call_at(loop.time() + 30, happen)
    waiting += await arrive(gate, "b")
    await asyncio.sleep(31)
    assert waiting[0].cancelled() == ("cancel" in order)
    if not waiting[0].cancelled():
        waiting[0].result().leave()
    holder.leave()
    assert (gate.in_flight, gate.waiting, gate.by_key()) == (0, 0, {})


@in_virtual_time
async def test_abandoned_coroutine_gives_its_place_back() -> None:
    """A coroutine that is thrown away while it waits, or once it was served, leaves nothing behind."""
    gate = admission()
    for is_served in (False, True):
        holder = await gate.enter("a")
        waiting = gate.enter("b")
        waiting.send(None)
        if is_served:
            holder.leave()
        waiting.close()
        holder.leave()
        assert (gate.in_flight, gate.waiting, gate.by_key()) == (0, 0, {})


@in_virtual_time
async def test_drain() -> None:
    """Closed: waiters and newcomers are told why, those in flight go on; reopened: all is as before."""
    gate = admission(places=1)
    holder = await gate.enter("a")
    waiting = await arrive(gate, *"abc")
    gate.close("The server is shutting down")
    await settle()
    for rejected in (*map(refusal, waiting), await refused(gate, "d")):
        assert (rejected.status, rejected.reason) == (503, "draining")
        assert rejected.message == "The server is shutting down"
        assert (rejected.retry_after_seconds or 0) >= 1
    assert (gate.in_flight, gate.waiting) == (1, 0)
    holder.leave()
    gate.reopen()
    (await gate.enter("a")).leave()
    assert gate.in_flight == 0


@pytest.mark.parametrize(
    ("seconds", "places", "waiting", "retry_after"),
    [
        (4, 2, 0, 2),  # one ends every 2 s
        (4, 2, 3, 8),  # four have to end
        (5, 4, 2, 4),  # 3.75 s
        (0.001, 2, 3, 1),
        (600, 2, 3, 60),
    ],
)
@in_virtual_time
async def test_retry_after_when_saturated(
    seconds: float, places: int, waiting: int, retry_after: int
) -> None:
    """The time until those that wait are served and one more place is free, at the observed pace."""
    gate = admission(places=places, queue=waiting, timeout=0)
    await asyncio.gather(*(serve(gate, "a", seconds) for _ in range(places)))
    for _ in range(places):
        await gate.enter("a")
    await arrive(gate, *"a" * waiting)
    assert (await refused(gate)).retry_after_seconds == retry_after


@in_virtual_time
async def test_retry_after_follows_a_quiet_engine() -> None:
    """Nothing has ended for longer than requests usually take: the wait is expected to last so long."""
    gate = admission(places=2, queue=0)
    await asyncio.gather(*(serve(gate, "a", 2) for _ in range(2)))
    await asyncio.sleep(1000)  # idle, which says nothing of the pace
    for _ in range(2):
        await gate.enter("a")
    assert (await refused(gate)).retry_after_seconds == 1
    await asyncio.sleep(40)
    assert (await refused(gate)).retry_after_seconds == 20
    await asyncio.sleep(1000)
    assert (await refused(gate)).retry_after_seconds == 60


@in_virtual_time
async def test_retry_after_of_the_first_requests() -> None:
    """Before anything has ended, little is known, and little is promised."""
    gate = admission(places=4, queue=0)
    await asyncio.sleep(500)
    for _ in range(4):
        await gate.enter("a")
    assert (await refused(gate)).retry_after_seconds == 1


@in_virtual_time
async def test_pace_follows_the_latest_requests() -> None:
    """What requests took long ago is forgotten."""
    gate = admission(places=1, queue=0)
    for seconds in [1] * 100 + [30] * 200:
        await serve(gate, "a", seconds)
    await gate.enter("a")
    assert (await refused(gate)).retry_after_seconds in (29, 30)


@in_virtual_time
async def test_key_concurrency() -> None:
    """A key has so many open, running or waiting; another is not concerned."""
    gate = admission(places=3, key_open=2)
    await serve(gate, "a", 10)
    first = await gate.enter("a")
    await gate.enter("a")
    rejected = await refused(gate, "a")
    assert (rejected.status, rejected.reason, rejected.retry_after_seconds) == (429, "key_concurrency", 5)
    assert "KEY_MAX_IN_FLIGHT=2" in rejected.message
    await gate.enter("b")
    waiting = await arrive(gate, *"bcc")
    assert (await refused(gate, "b")).retry_after_seconds == 10  # one of b runs
    assert (await refused(gate, "c")).retry_after_seconds == 14  # c's turns come with four endings
    first.leave()
    await settle()
    assert [task.done() for task in waiting] == [True, False, False]


@in_virtual_time
async def test_requests_per_minute() -> None:
    """A full minute's worth at once, then one for each that flowed back; the wait is told exactly."""
    gate = admission(places=0, key_requests=20)
    for _ in range(20):
        (await gate.enter("a")).leave()
    rejected = await refused(gate, "a")
    assert (rejected.status, rejected.reason, rejected.retry_after_seconds) == (429, "key_requests", 3)
    assert "KEY_REQUESTS_PER_MINUTE=20" in rejected.message
    await asyncio.sleep(2.5)
    assert (await refused(gate, "a")).retry_after_seconds == 1
    await asyncio.sleep(0.5)
    (await gate.enter("a")).leave()
    assert (await refused(gate, "a")).retry_after_seconds == 3
    (await gate.enter("b")).leave()


@in_virtual_time
async def test_longer_of_two_waits_is_told() -> None:
    """Out of requests and of tokens: whichever takes longer to come back is the reason given."""
    gate = admission(places=0, key_requests=1, key_tokens=60)
    (await gate.enter("a")).leave()
    assert (await refused(gate, "a")).reason == "key_requests"
    slot = await gate.enter("b")
    slot.record_tokens(60, 60)
    rejected = await refused(gate, "b")
    assert (rejected.reason, rejected.retry_after_seconds) == ("key_tokens", 61)
    slot = await gate.enter("c")
    slot.record_tokens(60, 5)
    rejected = await refused(gate, "c")
    assert (rejected.reason, rejected.retry_after_seconds) == ("key_requests", 60)


@pytest.mark.parametrize(("seconds", "told"), [(0, 1), (0.2, 1), (30, 30), (30 + 1e-9, 30), (30.01, 31)])
def test_whole_seconds(seconds: float, told: int) -> None:
    """Rounded up, at least 1, and not pushed up by what adding fractions leaves."""
    assert whole_seconds(seconds) == told


@pytest.mark.parametrize("per_minute", [1, 3, 7, 60, 600, 1001])
@in_virtual_time
async def test_who_comes_back_on_time_is_served(per_minute: int) -> None:
    """The told wait is enough, whatever fractions the refill adds up to."""
    gate = admission(places=0, key_requests=per_minute, key_tokens=per_minute)
    for round_ in range(100):
        try:
            slot = await gate.enter("a")
        except Rejected as rejected:
            await asyncio.sleep(rejected.retry_after_seconds or 0)
            slot = await gate.enter("a")
        slot.record_tokens(round_ % 3, 1)
        slot.leave()


@in_virtual_time
async def test_only_what_runs_counts_as_a_request() -> None:
    """Refused, timed out, drained, gone while waiting: none of these is charged."""
    gate = admission(places=1, queue=1, timeout=1, key_requests=2)
    holder = await gate.enter("x")
    for _ in range(5):
        (waiting,) = await arrive(gate, "a")
        assert (await refused(gate, "a")).reason == "saturated"
        waiting.cancel()
        await settle()
    for _ in range(5):
        assert (await refused(gate, "a")).reason == "queue_timeout"
    for _ in range(5):
        (waiting,) = await arrive(gate, "a")
        gate.close("closing")
        await settle()
        assert refusal(waiting).reason == "draining"
        gate.reopen()
    holder.leave()
    for _ in range(2):
        (await gate.enter("a")).leave()
    assert (await refused(gate, "a")).reason == "key_requests"


@in_virtual_time
async def test_clients_without_a_key_share_one_allowance() -> None:
    """None is one key like any other, and is spoken of as what it is."""
    gate = admission(places=0, key_requests=2)
    await gate.enter(None)
    await gate.enter(None)
    rejected = await refused(gate, None)
    assert rejected.reason == "key_requests"
    assert "without an API key" in rejected.message
    await gate.enter("a")
    assert gate.by_key() == {None: KeyLoad(2, 0), "a": KeyLoad(1, 0)}


@in_virtual_time
async def test_tokens_are_a_debt() -> None:
    """A large answer is charged afterwards; the next request is refused until it is paid."""
    gate = admission(places=0, key_tokens=600)  # ten a second
    slot = await gate.enter("a")
    running = await gate.enter("a")
    slot.record_tokens(prompt=599, completion=2001)
    slot.leave()
    rejected = await refused(gate, "a")  # 2000 in debt
    assert (rejected.status, rejected.reason) == (429, "key_tokens")
    assert rejected.retry_after_seconds == 201  # beyond the 60 s of estimates: this one is known
    assert "KEY_TOKENS_PER_MINUTE=600" in rejected.message
    running.record_tokens(0, 100)
    running.leave()
    assert (await refused(gate, "a")).retry_after_seconds == 211
    (await gate.enter("b")).leave()
    await asyncio.sleep(210)
    assert (await refused(gate, "a")).retry_after_seconds == 1
    await asyncio.sleep(1)
    (await gate.enter("a")).leave()


@in_virtual_time
async def test_tokens_are_charged_after_the_request_left() -> None:
    """Usage may be known late, even after the key was forgotten."""
    gate = admission(places=0, key_tokens=60)
    slot = await gate.enter("a")
    slot.leave()
    for number in range(3 * KEYS_BEFORE_SWEEP):
        (await gate.enter(f"other {number}")).leave()
    slot.record_tokens(100, 19)
    assert (await refused(gate, "a")).retry_after_seconds == 60


@in_virtual_time
async def test_idle_keys_are_forgotten() -> None:
    """A key with nothing open and nothing owed takes no memory for ever; any other is remembered."""
    gate = admission(places=1, timeout=0, key_requests=60, key_tokens=60)
    debtor = await gate.enter("debtor")
    debtor.record_tokens(10**7, 0)
    debtor.leave()
    runner = await gate.enter("runner")
    (waiting,) = await arrive(gate, "waiting")
    gate_keys = gate._keys
    for number in range(10_000):
        (gone,) = await arrive(gate, f"key {number}")
        gone.cancel()
        await asyncio.sleep(1)
        gate_keys = gate._keys
        assert len(gate_keys) <= KEYS_BEFORE_SWEEP
    assert {"debtor", "runner", "waiting"} <= set(gate_keys)
    assert (await refused(gate, "debtor")).reason == "key_tokens"
    runner.leave()
    (await waiting).leave()


class Soak:
    """Random clients of one admission, and what they ought to make of its counts."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.gate = admission(places=5, queue=12, timeout=3, key_open=9, key_requests=900, key_tokens=3000)
        self.held: list[tuple[str, int, Slot]] = []
        self.waiting: dict[asyncio.Task[Slot], tuple[str, int]] = {}
        self.outcomes: Counter[str] = Counter()

    def act(self) -> None:
        """Do one thing."""
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
        elif action < 0.903:
            self.gate.close("now and then")
        elif action < 0.99:
            self.gate.reopen()

    async def agree(self) -> None:
        """Let everything come to rest, then compare the counts."""
        await settle()
        for task in [task for task in self.waiting if task.done()]:
            self.outcomes[self.end(task, *self.waiting.pop(task))] += 1
        gate, loads = self.gate, self.gate.by_key()
        assert gate.in_flight == sum(places for _, places, _ in self.held) <= 5
        assert gate.waiting == len(self.waiting) <= 12
        assert not self.waiting or gate.in_flight + max(places for _, places in self.waiting.values()) > 5
        running = {name: load.in_flight for name, load in loads.items() if load.in_flight}
        queued = {name: load.waiting for name, load in loads.items() if load.waiting}
        held = Counter[str]()
        for key, places, _ in self.held:
            held[key] += places
        assert running == held
        assert queued == Counter(key for key, _ in self.waiting.values())
        waiting = Counter[str]()
        for key, places in self.waiting.values():
            waiting[key] += places
        assert all(state.waiting == waiting[str(name)] for name, state in gate._keys.items())

    def end(self, task: asyncio.Task[Slot], key: str, places: int) -> str:
        """Say what became of a request."""
        if task.cancelled():
            return "cancelled"
        if isinstance(error := task.exception(), Rejected):
            return error.reason
        self.held.append((key, places, task.result()))
        return "served"


@pytest.mark.parametrize("seed", range(20))
@in_virtual_time
async def test_nothing_leaks(seed: int) -> None:
    """Thousands of arrivals, departures, cancellations and timeouts in any order: the counts agree."""
    soak = Soak(seed)
    for _ in range(1500):
        for _ in range(soak.dice.randrange(4)):  # several things in one step of the loop
            soak.act()
        await asyncio.sleep(soak.dice.random() if soak.dice.random() < 0.3 else 0)
        if soak.dice.random() < 0.5:
            await soak.agree()
    soak.gate.close("end of the test")
    await soak.agree()
    for *_, slot in soak.held:
        slot.leave()
    assert (soak.gate.in_flight, soak.gate.waiting, soak.gate.by_key()) == (0, 0, {})
    kinds = ("served", "cancelled", "saturated", "key_concurrency", "key_tokens", "queue_timeout", "draining")
    assert all(soak.outcomes[kind] for kind in kinds), soak.outcomes


@in_virtual_time
async def test_a_batch_takes_as_many_places_as_it_holds() -> None:
    """It waits for all of them, nobody overtakes it meanwhile, and it leaves all of them at once."""
    gate = admission(places=4)
    one, two = await gate.enter("a"), await gate.enter("a")
    batch = asyncio.ensure_future(gate.enter("b", Claim(3)))
    await settle()
    (single,) = await arrive(gate, "c")
    assert (gate.in_flight, gate.waiting) == (2, 2)
    one.leave()
    slot = await batch
    assert (gate.in_flight, gate.waiting) == (4, 1)
    slot.leave()
    await single
    two.leave()
    assert gate.in_flight == 1


@in_virtual_time
async def test_a_batch_larger_than_the_server_runs_alone() -> None:
    """It takes all places, never more than there are, and of its key what that may have open."""
    gate = admission(places=4, key_open=2)
    batch = await gate.enter("a", Claim(100))
    assert (await refused(gate, "a")).reason == "key_concurrency"
    assert gate.in_flight == 4
    batch.leave()
    assert gate.in_flight == 0


@in_virtual_time
async def test_who_stood_behind_a_batch_that_left() -> None:
    """A batch that gives up waiting, or waits too long, stands in nobody's way any more."""
    gate = admission(places=2, timeout=30)
    holder = await gate.enter("a")
    for leave in (True, False):
        batch = asyncio.ensure_future(gate.enter("b", Claim(2)))
        await settle()
        (single,) = await arrive(gate, "c")
        if leave:
            batch.cancel()
        else:
            await asyncio.sleep(29)
            single.cancel()
            (single,) = await arrive(gate, "c")
            await asyncio.sleep(1)
        (await single).leave()
        assert (gate.in_flight, gate.waiting) == (1, 0)
    holder.leave()
    assert isinstance(batch.exception(), Rejected)


@in_virtual_time
async def test_a_batch_counts_for_its_requests_per_minute() -> None:
    """A hundred conversations are a hundred requests: the debt is paid before the next."""
    gate = admission(places=0, key_requests=60)
    (await gate.enter("a", Claim(100))).leave()
    assert (await refused(gate, "a")).retry_after_seconds == 41


@in_virtual_time
async def test_prompts_are_charged_before_they_run() -> None:
    """A hundred requests at once do not all see an allowance that none has been charged to yet."""
    gate = admission(places=0, key_tokens=60)
    first = await gate.enter("a", Claim(tokens=60))
    assert (await refused(gate, "a")).reason == "key_tokens"
    first.record_tokens(30, 0)
    second = await gate.enter("a", Claim(tokens=30))
    assert (await refused(gate, "a")).reason == "key_tokens"
    second.record_tokens(0, 0)
    await gate.enter("a", Claim(tokens=30))


@in_virtual_time
async def test_who_never_ran_is_not_charged() -> None:
    """The estimate of a request that waited in vain is given back."""
    gate = admission(places=1, timeout=1, key_tokens=60)
    holder = await gate.enter("b")
    waiting = asyncio.ensure_future(gate.enter("a", Claim(tokens=600)))
    await settle()
    assert (await refused(gate, "a")).reason == "key_tokens"
    await asyncio.sleep(1)
    assert refusal(waiting).has_waited
    holder.leave()
    await gate.enter("a")


@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "next", "room"]), st.integers(0, 3))))
def test_queue_against_a_plain_model(steps: list[tuple[str, int]]) -> None:
    """The queue does what a list of keys with a list of items each would."""
    queue: FairQueue[int] = FairQueue()
    model: list[tuple[str, list[int]]] = []
    for number, (step, which) in enumerate(steps):
        key = "abcd"[which]
        mine = next((items for name, items in model if name == key), [])
        if step == "add":
            queue.append(key, number)
            if not mine:
                model.append((key, mine))
            mine.append(number)
        elif step == "drop":
            queue.discard(key, mine.pop(len(mine) // 2) if mine else -1)
        elif step == "next" and model:
            assert queue.popleft() == model[0][1].pop(0)
            model.append(model.pop(0))
        elif step == "room":
            most = max((items for _, items in model), key=len, default=[])
            assert queue.make_room(key) == (most.pop() if len(mine) + 1 < len(most) else None)
        model = [(name, items) for name, items in model if items]
        assert len(queue) == sum(len(items) for _, items in model)
        assert [queue.count(name) for name, _ in model] == [len(items) for _, items in model]
