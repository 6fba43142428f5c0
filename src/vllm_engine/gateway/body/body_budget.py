"""What bodies take together: bounded in number and bytes, and shared fairly between API keys."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from vllm_engine.gateway.rejection import RETRY_AFTER_SECONDS, Rejected

_RESERVE = 4
"""One part in so many is lent beyond the bound to keys that have little, while others fill all of it."""


class Holder(Protocol):
    """A request that holds a body, whole or in part."""

    key: str | None
    size: int
    """Bytes held; the budget keeps it up to date."""

    def give_way(self, refusal: Rejected) -> None:
        """End with this refusal; the budget has forgotten the body already."""


class _Share:
    """The bodies of one key: those that are being read, oldest first, and those that wait, whole."""

    __slots__ = ("bytes", "holders", "reading", "waiting")

    def __init__(self) -> None:
        self.reading: OrderedDict[Holder, None] = OrderedDict()
        self.waiting: OrderedDict[Holder, None] = OrderedDict()
        self.bytes = 0
        self.holders = 0

    def first_to_yield(self, *, to_its_own: bool) -> Holder | None:
        """Return the body that has been read for longest; else, for another key, the newest that waits."""
        if self.reading:
            return next(iter(self.reading))
        return None if to_its_own else next(reversed(self.waiting))


class BodyBudget:
    """Counts every body from its first byte until it is not needed any more.

    The share rule: whatever is full, the number or the bytes, the key with the most yields, and of its bodies
    the one that has been read for longest; so a newcomer that sends what it has always gets in, however many
    dawdle. Bodies that wait for their turn yield to another key alone. Those at the engine do not yield;
    where they fill everything, a key that has little is lent up to a quarter of the bound beyond it.

    Args:
        max_bytes: of all bodies, read and being read.
        max_reading: how many may be incomplete.
    """

    def __init__(self, *, max_bytes: int, max_reading: int) -> None:
        self._max_bytes = max_bytes
        self._max_reading = max_reading
        self._shares: dict[str | None, _Share] = {}
        self._share_of: dict[Holder, _Share] = {}
        self.held_bytes = 0
        """Bytes of all bodies that are held now."""
        self.reading = 0
        """How many bodies are not whole yet."""

    def enter(self, body: Holder) -> None:
        """Count one more body, of which nothing has been read."""
        share = self._shares.get(body.key)
        if share is None:
            share = self._shares[body.key] = _Share()
        share.holders += 1
        self._share_of[body] = share

    def await_rest(self, body: Holder) -> None:
        """Note that a body is not here yet, or not all of it; another may have to give way."""
        share = self._share_of[body]
        if self.reading >= self._max_reading:
            most = max(self._shares.values(), key=lambda one: len(one.reading))
            loser = most if len(most.reading) > len(share.reading) else share
            self._evict(next(iter(loser.reading)), self._too_many())
        share.reading[body] = None
        self.reading += 1

    def grow(self, body: Holder, count: int) -> None:
        """Count bytes that have come; others may have to give way.

        Raises:
            Rejected: it is this body that has to.
        """
        share = self._share_of[body]
        while self.held_bytes + count > self._max_bytes:
            # With all others at the engine nobody yields, and a body that came at once is not counted yet.
            yielding = filter(_can_yield, self._shares.values())
            loser = max(yielding, key=lambda one: one.bytes, default=share)
            if loser.bytes <= share.bytes + count:
                if share.bytes + count <= self._max_bytes // (_RESERVE * len(self._shares)):
                    break
                loser = share
            first = loser.first_to_yield(to_its_own=loser is share)
            if first is None or first is body:
                raise self._too_much()
            self._evict(first, self._too_much())
        body.size += count
        share.bytes += count
        self.held_bytes += count

    def whole(self, body: Holder) -> None:
        """Note that a body has been read; it waits for its turn now."""
        share = self._share_of[body]
        if body in share.reading:
            del share.reading[body]
            self.reading -= 1
        share.waiting[body] = None

    def keep(self, body: Holder) -> None:
        """Note that a body is at the engine: it does not yield any more."""
        del self._share_of[body].waiting[body]

    def release(self, body: Holder) -> None:
        """Forget a body; a second call does nothing."""
        share = self._share_of.pop(body, None)
        if share is None:
            return
        if body in share.reading:
            del share.reading[body]
            self.reading -= 1
        share.waiting.pop(body, None)
        share.bytes -= body.size
        self.held_bytes -= body.size
        share.holders -= 1
        if not share.holders:
            del self._shares[body.key]

    def refuse_incomplete(self, refusal: Rejected) -> None:
        """End every request whose body is still being read."""
        for share in tuple(self._shares.values()):
            for body in tuple(share.reading):
                self._evict(body, refusal)

    def _evict(self, body: Holder, refusal: Rejected) -> None:
        self.release(body)
        body.give_way(refusal)

    def _too_many(self) -> Rejected:
        message = (
            f"{self._max_reading} requests are sent at once, as many as are read; this one was under way for "
            "longest and made room for another: send it faster"
        )
        return Rejected(503, "bodies", message, retry_after_seconds=RETRY_AFTER_SECONDS)

    def _too_much(self) -> Rejected:
        message = (
            f"Too many large requests at once: their bodies take more than {self._max_bytes} bytes together "
            "(16 times MAX_BODY_BYTES, 256 MiB at least); try again later"
        )
        return Rejected(503, "memory", message, retry_after_seconds=RETRY_AFTER_SECONDS)


def _can_yield(share: _Share) -> bool:
    return bool(share.reading or share.waiting)
