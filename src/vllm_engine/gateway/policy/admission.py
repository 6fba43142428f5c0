"""Admission: decides which request goes to the engine, which waits, and which gets 429 and until when.

The limits and the sentences of the refusals are in `admission_limits`, the order of the queue in `fairness`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from vllm_engine.gateway.policy.admission_limits import Limits, Pace
from vllm_engine.gateway.policy.fairness import FairQueue, KeyState
from vllm_engine.gateway.rejection import Rejected, draining

KEYS_BEFORE_SWEEP = 64
"""Up to this many keys are remembered whether or not they come back."""


class Claim(NamedTuple):
    """What a request asks for."""

    requests: int = 1
    """How many requests it counts for: the places it takes, at most as many as there are."""
    tokens: int = 0
    """The estimated tokens of its prompt; corrected when the usage is known."""
    costs_tokens: bool = True
    """Whether it can use any: else a key whose tokens are used up may make it all the same."""


_ONE: Final = Claim()


class Slot:
    """As many places at the engine as a request counts for; its holder must call `leave`."""

    __slots__ = ("_admission", "_has_left", "_key", "_places", "_started", "estimate")

    def __init__(
        self, admission: Admission, key: KeyState, places: int, estimate: int, started: float
    ) -> None:
        self._admission = admission
        self._key = key
        self._places = places
        self.estimate = estimate
        """The tokens that its key has already been charged for."""
        self._started = started
        self._has_left = False

    def leave(self) -> None:
        """Free the places for the next in turn; a second call does nothing."""
        if not self._has_left:
            self._has_left = True
            self._admission._left(self._key, self._places, self._started)

    def record_tokens(self, prompt: int, completion: int) -> None:
        """Charge the key for what was used instead of the estimate; before or after `leave`; calls add up.

        More than the key has left puts it into debt: its next requests are refused until the refill has paid
        it off. Requests that are already open run on.
        """
        estimate, self.estimate = self.estimate, 0
        self._admission._charge(self._key.name, prompt + completion - estimate)


class Admission:
    """Lets as many requests through to the engine as the limits allow, fairly between API keys.

    A key's own limits are checked first, then whether there is a place. A request counts towards its key's
    requests and tokens per minute only if it runs. One that needs more places than are free waits for them
    at the head of the queue, with the others behind it. `enter` alone is awaited, and suspends only where a
    request has to wait. All calls must come from one event loop. `clock` tells monotonic seconds.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self.places = limits.max_in_flight or sys.maxsize
        """How many requests may be at the engine at once."""
        # Whenever a request waits, fewer places are free than the first in turn needs.
        self.in_flight = 0
        """How many requests hold a place."""
        self._queue: FairQueue[_Waiter] = FairQueue()
        self._keys: dict[str | None, KeyState] = {}
        self._sweep_at = KEYS_BEFORE_SWEEP
        self._pace = Pace(clock())
        self._closed: str | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait for one."""
        return len(self._queue)

    async def enter(self, key: str | None, claim: Claim = _ONE) -> Slot:
        """Return a slot, at once or after waiting for it.

        Await this in the task that will `leave`: cancelling that task while it waits gives up its place in
        the queue, and the slot if that was being handed over at that moment.
        `key` is the API key's name, None for all clients without one together.

        Raises:
            Rejected: a limit is reached, the wait took too long, or the gateway is draining.
        """
        now = self._clock()
        state = self._keys.get(key) or self._new_key(key, now)
        places = min(claim.requests, self.places)
        self._check(state, places, now, costs_tokens=claim.costs_tokens)
        if self._queue or self.in_flight + places > self.places:
            return await self._wait(state, places, claim, now)
        state.take(claim.requests, claim.tokens, now)
        state.in_flight += places
        self.in_flight += places
        if self.in_flight == self.places:
            self._pace.quiet_since = now
        return Slot(self, state, places, claim.tokens, now)

    def check_key(self, key: str | None, claim: Claim = _ONE) -> None:
        """Raise `Rejected` if the key's own limits refuse the request now; nothing is counted."""
        now = self._clock()
        state = self._keys.get(key) or self._new_key(key, now)
        self._check(state, min(claim.requests, self.places), now, costs_tokens=claim.costs_tokens)

    def check_open(self) -> None:
        """Raise `Rejected` if the gateway is draining."""
        if self._closed is not None:
            raise draining(self._closed)

    def close(self, reason: str) -> None:
        """Refuse those that wait, and all that come from now on, with 503 and this sentence; others go on."""
        self._closed = reason
        while self._queue:
            self._queue.popleft().answer(draining(reason))

    def _check(self, key: KeyState, places: int, now: float, *, costs_tokens: bool) -> None:
        self.check_open()
        requests = 0.0 if key.requests is None else key.requests.seconds_until_one(now)
        tokens = key.tokens.seconds_until_one(now) if key.tokens is not None and costs_tokens else 0.0
        # Of two allowances that are used up, the one that takes longer to refill is the reason.
        if tokens > requests:
            raise self._limits.out_of_tokens(key.name, tokens)
        if requests:
            raise self._limits.out_of_requests(key.name, requests)
        limit = self._limits.key_max_in_flight
        # A request that counts for more than its key may have open runs alone.
        if limit and key.in_flight + key.waiting + min(places, limit) > limit:
            one = self._pace.seconds_until_one(key.in_flight) if key.in_flight else self._until_free(now)
            raise self._limits.too_many_open(key.name, one)

    async def _wait(self, key: KeyState, places: int, claim: Claim, arrived: float) -> Slot:
        self._find_room(key.name, arrived)
        if not self._queue and self.in_flight < self.places:
            self._pace.quiet_since = arrived
        loop = asyncio.get_running_loop()
        waiter = _Waiter(key, places, loop.create_future())
        self._queue.append(key.name, waiter)
        key.take(claim.requests, claim.tokens, arrived)
        # The request that was displaced may have been the first in turn.
        self._pass_on()
        timeout = self._limits.queue_timeout_seconds
        timer = loop.call_later(timeout, self._expire, waiter) if timeout else None
        try:
            if refusal := await waiter.answered:
                refusal.has_waited = True
                raise refusal
        except BaseException:
            self._give_up(waiter, claim)
            raise
        finally:
            if timer:
                timer.cancel()
        return Slot(self, key, places, claim.tokens, self._clock())

    def _find_room(self, name: str | None, now: float) -> None:
        if len(self._queue) < self._limits.max_queue:
            return
        displaced = self._queue.make_room(name)
        if displaced is None:
            raise self._limits.queue_is_full(self._until_free(now))
        displaced.answer(self._limits.displaced(self._until_free(now)))

    def _expire(self, waiter: _Waiter) -> None:
        if waiter.answered.done():
            return  # it got its slot, or its client left, in this same step of the loop
        self._queue.discard(waiter.key.name, waiter)
        waiter.answer(self._limits.waited_too_long(self._until_free(self._clock())))
        self._pass_on()

    def _give_up(self, waiter: _Waiter, claim: Claim) -> None:
        self._queue.discard(waiter.key.name, waiter)
        waiter.key.take(-claim.requests, -claim.tokens, self._clock())
        # The client left after the slot was handed over and before this task ran again.
        if waiter.has_place:
            waiter.key.in_flight -= waiter.places
            self.in_flight -= waiter.places
        elif waiter.answered.cancelled():
            waiter.key.waiting -= waiter.places
        self._pass_on()

    def _left(self, key: KeyState, places: int, started: float) -> None:
        now = self._clock()
        self._pace.ended(now - started, now)
        key.in_flight -= places
        self.in_flight -= places
        self._pass_on()

    def _pass_on(self) -> None:
        """Hand free places to the first in turn."""
        while self._queue:
            waiter = self._queue.first()
            if self.in_flight + waiter.places > self.places:
                return
            self._queue.popleft()
            if waiter.answer(None):
                waiter.key.in_flight += waiter.places
                self.in_flight += waiter.places

    def _until_free(self, now: float) -> float:
        """Estimate when all that wait have been served and one more place is free; all are taken now."""
        return self._pace.seconds_until(len(self._queue) + 1, self.in_flight, now)

    def _charge(self, name: str | None, tokens: int) -> None:
        if not (self._limits.key_tokens_per_minute and tokens):
            return
        now = self._clock()
        # By name: the key may have been forgotten since the request left.
        key = self._keys.get(name) or self._new_key(name, now)
        if key.tokens is not None:
            key.tokens.take(tokens, now)

    def _new_key(self, name: str | None, now: float) -> KeyState:
        if len(self._keys) >= self._sweep_at:
            # Sweeping at twice what the last sweep left costs a constant share for each new key.
            waiting = self._queue.count
            self._keys = {n: key for n, key in self._keys.items() if waiting(n) or not key.is_new(now)}
            self._sweep_at = max(KEYS_BEFORE_SWEEP, 2 * len(self._keys))
        key = self._keys[name] = KeyState(name, self._limits, now)
        return key


class _Waiter:
    """A request in the queue; its answer is None for a slot, else the refusal."""

    __slots__ = ("answered", "key", "places")

    def __init__(self, key: KeyState, places: int, answered: asyncio.Future[Rejected | None]) -> None:
        self.key = key
        self.places = places
        self.answered = answered
        key.waiting += places

    @property
    def has_place(self) -> bool:
        """Whether its places were handed to it."""
        return self.answered.done() and not self.answered.cancelled() and self.answered.result() is None

    def answer(self, refusal: Rejected | None) -> bool:
        """Wake it with this answer; False if its client has already left."""
        if self.answered.done():
            return False
        self.key.waiting -= self.places
        self.answered.set_result(refusal)
        return True
