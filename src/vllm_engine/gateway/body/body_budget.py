"""The memory of all bodies: bounded in number and bytes, and shared fairly between API keys."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from vllm_engine.gateway.rejection import RETRY_AFTER_SECONDS, Rejected

_RESERVE = 4
"""A key may hold its equal share of 1/`_RESERVE` of `max_bytes` even while others' bodies fill all of it."""


class Holder(Protocol):
    """A request that holds a body, complete or not."""

    key: str | None
    size: int
    """Bytes held, counted by the budget."""

    def evict(self, refusal: Rejected) -> None:
        """End with this refusal; the budget has forgotten the body already."""


class _Share:
    """The bodies of one key: incomplete ones, oldest first, and complete ones that wait for their turn."""

    __slots__ = ("bytes", "holders", "reading", "waiting")

    def __init__(self) -> None:
        self.reading: OrderedDict[Holder, None] = OrderedDict()
        self.waiting: OrderedDict[Holder, None] = OrderedDict()
        self.bytes = 0
        self.holders = 0

    def first_to_evict(self, *, for_its_own_key: bool) -> Holder | None:
        """Return the body that has been read for longest; else, for another key, the newest that waits."""
        if self.reading:
            return next(iter(self.reading))
        return None if for_its_own_key else next(reversed(self.waiting))


class BodyBudget:
    """Counts every body from its first byte until it is not needed any more.

    Whichever bound is reached, the key with the most makes room: of its bodies the one that has been read for
    longest is evicted, so a new request that sends what it has always gets in, however many are slow. Bodies
    that wait for their turn are evicted for another key only, those at the engine never; where these fill
    everything, a key that has little is lent up to a quarter of the bound beyond it. `max_bytes` bounds all
    bodies together, `max_reading` the number of incomplete ones.
    """

    def __init__(self, *, max_bytes: int, max_reading: int) -> None:
        self._max_bytes = max_bytes
        self._max_reading = max_reading
        self._shares: dict[str | None, _Share] = {}
        self._share_of: dict[Holder, _Share] = {}
        self.held_bytes = 0
        """Bytes of all bodies that are held now."""
        self.reading = 0
        """How many bodies are incomplete."""

    def enter(self, body: Holder) -> None:
        """Count one more body, of which nothing has been read."""
        share = self._shares.get(body.key)
        if share is None:
            share = self._shares[body.key] = _Share()
        share.holders += 1
        self._share_of[body] = share

    def await_rest(self, body: Holder) -> None:
        """Note that a body is incomplete; another may be evicted."""
        share = self._share_of[body]
        if self.reading >= self._max_reading:
            most = max(self._shares.values(), key=lambda one: len(one.reading))
            loser = most if len(most.reading) > len(share.reading) else share
            self._evict(next(iter(loser.reading)), self._too_many())
        share.reading[body] = None
        self.reading += 1

    def grow(self, body: Holder, count: int) -> None:
        """Count bytes that have come; other bodies may be evicted.

        Raises:
            Rejected: this one has to end.
        """
        share = self._share_of[body]
        while self.held_bytes + count > self._max_bytes:
            # With all others at the engine there is none, and a body that came at once is not counted yet.
            evictable = (one for one in self._shares.values() if one.reading or one.waiting)
            loser = max(evictable, key=lambda one: one.bytes, default=share)
            if loser.bytes <= share.bytes + count:
                if share.bytes + count <= self._max_bytes // (_RESERVE * len(self._shares)):
                    break
                loser = share
            first = loser.first_to_evict(for_its_own_key=loser is share)
            if first is None or first is body:
                raise self._too_much()
            self._evict(first, self._too_much())
        body.size += count
        share.bytes += count
        self.held_bytes += count

    def whole(self, body: Holder) -> None:
        """Note that a body is complete; it waits for its turn now."""
        share = self._share_of[body]
        self._stop_reading(share, body)
        share.waiting[body] = None

    def keep(self, body: Holder) -> None:
        """Note that a body is at the engine: it is not evicted any more."""
        del self._share_of[body].waiting[body]

    def release(self, body: Holder) -> None:
        """Forget a body; a second call does nothing."""
        share = self._share_of.pop(body, None)
        if share is None:
            return
        self._stop_reading(share, body)
        share.waiting.pop(body, None)
        share.bytes -= body.size
        self.held_bytes -= body.size
        share.holders -= 1
        if not share.holders:
            del self._shares[body.key]

    def refuse_incomplete(self, refusal: Rejected) -> None:
        """End every request whose body is incomplete."""
        for share in tuple(self._shares.values()):
            for body in tuple(share.reading):
                self._evict(body, refusal)

    def _evict(self, body: Holder, refusal: Rejected) -> None:
        self.release(body)
        body.evict(refusal)

    def _stop_reading(self, share: _Share, body: Holder) -> None:
        if body in share.reading:
            del share.reading[body]
            self.reading -= 1

    def _too_many(self) -> Rejected:
        message = (
            f"{self._max_reading} request bodies are being received, which is the limit; this one had "
            "been arriving the longest and was dropped in favour of a newer request: send it faster"
        )
        return Rejected(503, "bodies", message, retry_after_seconds=RETRY_AFTER_SECONDS)

    def _too_much(self) -> Rejected:
        message = (
            f"Too many large requests at once: their bodies take more than {self._max_bytes} bytes together "
            "(16 times MAX_BODY_BYTES, 256 MiB at least); try again later"
        )
        return Rejected(503, "memory", message, retry_after_seconds=RETRY_AFTER_SECONDS)
