"""Bodies: bounded in size, time, number and sum, and shared fairly between keys."""

from __future__ import annotations

import asyncio
import random

import pytest
from starlette.types import Message

from tests.support.virtual.virtual_time import in_virtual_time, settle
from vllm_engine.gateway.body.body_budget import BodyBudget
from vllm_engine.gateway.body.request_body import Bodies, Body
from vllm_engine.gateway.rejection import Rejected, draining

MIB = 1 << 20


def bodies(*, largest: int = 64 * MIB, total: int = 512 * MIB, reading: int = 100) -> Bodies:
    budget = BodyBudget(max_bytes=total, max_reading=reading)
    return Bodies(max_bytes=largest, idle_timeout_seconds=30, budget=budget)


class Client:
    """Sends one body, and holds its place as a request does."""

    def __init__(self, bodies: Bodies, key: str | None = None, at_once: bytes | None = None) -> None:
        self._pieces: asyncio.Queue[Message] = asyncio.Queue()
        if at_once is not None:
            self.send(at_once, more=False)
        self._step = asyncio.Semaphore(0)
        self.came: bytes | bytearray | None = None
        self.task = asyncio.create_task(self._serve(Body(bodies, key), at_once is not None))
        # Not every test looks at every refusal.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    def send(self, piece: bytes, *, more: bool = True) -> None:
        self._pieces.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    async def advance(self, steps: int = 1) -> None:
        """Go on: to the engine, then to the answer's beginning, then to its end."""
        for _ in range(steps):
            self._step.release()
        await settle()

    async def end(self) -> None:
        await self.advance(3)
        await self.task

    @property
    def refusal(self) -> Rejected:
        error = self.task.exception()
        assert isinstance(error, Rejected)
        return error

    async def _serve(self, body: Body, is_here: bool) -> None:
        with body:
            await body.read(self._pieces.get, is_here=is_here)
            self.came = body.data
            await self._step.acquire()
            body.keep()
            await self._step.acquire()
            body.drop()
            await self._step.acquire()


async def clients(own: Bodies, key: str | None, count: int, size: int, *, more: bool = True) -> list[Client]:
    made = []
    for _ in range(count):
        made.append(Client(own, key))
        made[-1].send(b"x" * size, more=more)
        await settle()
    return made


def alive(clients: list[Client]) -> list[bool]:
    return [not client.task.done() for client in clients]


@in_virtual_time
async def test_whole() -> None:
    """A body arrives as it was sent, in one piece or many, and is held until its answer begins."""
    own = bodies()
    one, many = Client(own), Client(own)
    one.send(b"abc", more=False)
    for letter in b"abc":
        many.send(bytes([letter]))
    await settle()
    assert (own.budget.reading, own.budget.held_bytes) == (1, 6)
    many.send(b"", more=False)
    await settle()
    assert (one.came, many.came) == (b"abc", b"abc")
    assert (own.budget.reading, own.budget.held_bytes) == (0, 6)
    await one.advance(2)
    assert own.budget.held_bytes == 3
    await one.end()
    await many.end()
    assert (own.budget.reading, own.budget.held_bytes) == (0, 0)


@in_virtual_time
async def test_every_body_has_a_total_time_that_grows_with_what_has_come() -> None:
    loop = asyncio.get_running_loop()
    for piece, every, ends_after in (
        (b"", 31, 31),  # nothing at all
        (b"x", 31, 31),  # a pause
        (b"x", 1, 31),  # a byte now and then does not buy time, however small the body
        (b"x" * 8192, 1, 61),  # half the slowest pace
        (b"x" * 65_536, 31, 31),
    ):
        client = Client(bodies())
        began = loop.time()
        while not client.task.done():
            client.send(piece)
            await asyncio.sleep(every)
        assert (client.refusal.status, client.refusal.reason) == (408, "body_timeout")
        assert loop.time() - began == pytest.approx(ends_after, abs=1.1)
    # Who keeps the pace may take its time: 8 MiB over a line of 32 KiB/s.
    client = Client(bodies())
    for _ in range(256):
        client.send(b"x" * 32_768)
        await asyncio.sleep(1)
    client.send(b"", more=False)
    await settle()
    assert len(client.came or b"") == 8 * MIB
    await asyncio.sleep(3600)  # its wait for a turn is no part of it
    await client.end()


@in_virtual_time
async def test_too_large() -> None:
    """Announced or not."""
    own = bodies(largest=10)
    with pytest.raises(Rejected) as caught:
        own.check_announced([(b"content-length", b"11")])
    assert caught.value.status == 413
    (client,) = await clients(own, None, 1, 11)
    assert (client.refusal.status, client.refusal.retry_after_seconds) == (413, None)
    assert own.budget.held_bytes == 0


@in_virtual_time
async def test_newcomers_get_in_however_many_dawdle() -> None:
    """In a full house of unfinished bodies the one that has been read for longest makes room."""
    own = bodies(reading=10)
    slow = await clients(own, None, 10, 1)
    (honest,) = await clients(own, None, 1, 5, more=False)
    assert alive(slow) == [False] + [True] * 9
    assert (slow[0].refusal.status, slow[0].refusal.reason) == (503, "bodies")
    assert slow[0].refusal.retry_after_seconds
    await honest.end()


@in_virtual_time
async def test_what_comes_at_once_pushes_nobody_out() -> None:
    """A request whose body is here with its head is never incomplete: who still sends goes on sending."""
    own = bodies(reading=2, total=100)
    slow = await clients(own, None, 2, 1)
    at_once = [Client(own, None, b"x" * 10) for _ in range(9)]
    await settle()
    assert (alive(slow), [client.came for client in at_once]) == ([True] * 2, [b"x" * 10] * 9)
    # Until memory is short.
    late = [Client(own, None, b"x" * 10) for _ in range(2)]
    await settle()
    assert (alive(slow), alive(late)) == ([False] * 2, [True, False])
    assert late[1].refusal.reason == "memory"


@in_virtual_time
async def test_the_largest_share_yields() -> None:
    """In number as in bytes: shares become equal, none is pushed below that, and a key's oldest yields first."""
    own = bodies(reading=10)
    greedy = await clients(own, "a", 10, 1)
    others = await clients(own, "b", 5, 1)
    assert (alive(greedy), alive(others)) == ([False] * 5 + [True] * 5, [True] * 5)
    greedy += await clients(own, "a", 3, 1)
    assert (sum(alive(greedy)), alive(others)) == (5, [True] * 5)
    own = bodies(total=100)
    greedy = await clients(own, "a", 9, 10)
    small = await clients(own, "b", 2, 10)
    assert alive(greedy) == [False] + [True] * 8
    assert (greedy[0].refusal.status, greedy[0].refusal.reason) == (503, "memory")
    assert (alive(small), own.budget.held_bytes) == ([True] * 2, 100)


@in_virtual_time
async def test_waiting_bodies_yield_to_another_key_alone() -> None:
    own = bodies(total=100)
    waiting = await clients(own, "a", 10, 10, more=False)
    (newcomer,) = await clients(own, "a", 1, 10)
    assert (alive(waiting), newcomer.refusal.reason) == ([True] * 10, "memory")
    (other,) = await clients(own, "b", 1, 10, more=False)
    assert (alive(waiting), alive([other])) == ([True] * 9 + [False], [True])


@in_virtual_time
async def test_bodies_at_the_engine_never_yield() -> None:
    """What runs runs on; where it takes all there is, another key is still lent a little."""
    own = bodies(total=100)
    running = await clients(own, "a", 10, 10, more=False)
    for client in running:
        await client.advance()
    other, large = await clients(own, "b", 1, 10, more=False), await clients(own, "c", 1, 13)
    (more,) = await clients(own, "a", 1, 10)
    # What came at once with its head is judged alike, where nobody is left to yield.
    await other[0].advance()
    more_at_once, other_at_once = Client(own, "a", b"x" * 10), Client(own, "d", b"x" * 5)
    await settle()
    assert alive([*running, *other, other_at_once]) == [True] * 12
    assert [client.refusal.reason for client in (*large, more, more_at_once)] == ["memory"] * 3
    for client in [*running, *other, other_at_once]:
        await client.end()
    assert own.budget.held_bytes == 0


@in_virtual_time
async def test_drain() -> None:
    """Who is still sending is told at once; who waits or runs is not disturbed."""
    own = bodies()
    sending = await clients(own, "a", 2, 10) + await clients(own, "b", 2, 10)
    whole = await clients(own, "a", 2, 10, more=False)
    await whole[0].advance()
    own.budget.refuse_incomplete(draining("The server is shutting down"))
    await settle()
    assert [client.refusal.reason for client in sending] == ["draining"] * 4
    assert (alive(whole), own.budget.reading, own.budget.held_bytes) == ([True] * 2, 0, 20)


@in_virtual_time
async def test_a_client_that_leaves_is_no_refusal() -> None:
    """Cancelled for its client's leaving, a request ends so, even where it has to make room in the same step."""
    own = bodies(reading=1)
    (gone,) = await clients(own, None, 1, 1)
    gone.task.cancel()
    await settle()
    assert gone.task.cancelled()
    (both,) = await clients(own, None, 1, 1)
    both.task.cancel()
    await clients(own, None, 1, 1)
    assert both.task.cancelled()
    assert own.budget.reading == 1


@in_virtual_time
async def test_nothing_leaks() -> None:
    """Thousands of bodies in any order of pieces, ends, starts and leaving: the counts hold, and end at 0."""
    dice = random.Random(1)
    own = bodies(largest=300, total=1000, reading=12)
    open_: list[Client] = []
    refusals: set[str] = set()

    for _ in range(5000):
        if dice.random() < 0.4:
            open_.append(Client(own, dice.choice("aaab")))
        if open_:
            client, act = dice.choice(open_), dice.randrange(6)
            if act < 3:
                client.send(b"x" * dice.randrange(150), more=dice.random() < 0.7)
            elif act == 3:
                client.task.cancel()
            else:
                await client.advance()
        if dice.random() < 0.05:
            await asyncio.sleep(dice.random() * 20)
        await settle()
        ended = [client.task for client in open_ if client.task.done() and not client.task.cancelled()]
        refusals |= {error.reason for task in ended if isinstance(error := task.exception(), Rejected)}
        open_ = [client for client in open_ if not client.task.done()]
        assert own.budget.held_bytes <= 1000 * 1.25
        assert own.budget.reading == sum(client.came is None for client in open_) <= 12
    for client in open_:
        client.task.cancel()
    await settle()
    assert (own.budget.held_bytes, own.budget.reading, own.budget._shares) == (0, 0, {})
    assert refusals >= {"body_timeout", "body_size", "bodies", "memory"}
