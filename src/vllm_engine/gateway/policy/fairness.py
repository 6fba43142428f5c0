"""Fairness between API keys: an allowance per minute for each, and turns in the queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from vllm_engine.gateway.policy.admission_limits import ROUNDING_SECONDS, Limits

T = TypeVar("T", bound=Hashable)


class Bucket:
    """A token bucket per minute: it starts full, refills evenly, and may be overdrawn.

    Overdrawn, because the cost of a request is known only after it ran: the debt is paid off by waiting.
    Times are seconds of one monotonic clock.
    """

    __slots__ = ("_at", "_capacity", "_level", "_per_second")

    def __init__(self, per_minute: int, now: float) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._level = self._capacity
        self._at = now

    def take(self, amount: int, now: float) -> None:
        """Take out `amount`, even if it is not there; a negative amount is given back."""
        self._refill(now)
        self._level = min(self._capacity, self._level - amount)

    def seconds_until_one(self, now: float) -> float:
        """Return how long until there is one whole unit to take: 0.0 where there is."""
        self._refill(now)
        seconds = (1 - self._level) / self._per_second
        return seconds if seconds > ROUNDING_SECONDS else 0.0

    def is_full(self, now: float) -> bool:
        """Whether it is as good as a new one."""
        self._refill(now)
        return self._level >= self._capacity

    def _refill(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._at) * self._per_second)
        self._at = now


class KeyState:
    """One API key's places at the engine, those it waits for, and its allowances (None: no limit)."""

    __slots__ = ("in_flight", "name", "requests", "tokens", "waiting")

    def __init__(self, name: str | None, limits: Limits, now: float) -> None:
        requests, tokens = limits.key_requests_per_minute, limits.key_tokens_per_minute
        self.name = name
        self.in_flight = 0
        self.waiting = 0
        self.requests = Bucket(requests, now) if requests else None
        self.tokens = Bucket(tokens, now) if tokens else None

    def take(self, requests: int, tokens: int, now: float) -> None:
        """Take from both allowances; negative amounts are given back."""
        if self.requests is not None:
            self.requests.take(requests, now)
        if self.tokens is not None and tokens:
            self.tokens.take(tokens, now)

    def is_new(self, now: float) -> bool:
        """Whether nothing runs and nothing is owed, so that the key can be forgotten."""
        buckets = (self.requests, self.tokens)
        return not self.in_flight and all(bucket is None or bucket.is_full(now) for bucket in buckets)


class FairQueue(Generic[T]):
    """Waiting requests by key: round-robin between keys, first come first served within one.

    One key alone may fill the queue. In a full queue, a request of a key that has fewer waiting than another
    displaces the newest of the key that has most, as long as its key then has no more than the other. So
    shares become equal, and nothing is kept free for keys that do not come. Every step takes constant time
    but `make_room`, which looks at each key.
    """

    def __init__(self) -> None:
        # The first key has the next turn. An OrderedDict removes any item in constant time, unlike a deque,
        # and the first one too, unlike a dict.
        self._by_key: OrderedDict[str | None, OrderedDict[T, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def count(self, key: str | None) -> int:
        """Return how many of a key's requests wait."""
        items = self._by_key.get(key)
        return len(items) if items else 0

    def append(self, key: str | None, item: T) -> None:
        """Add a request behind those of its key; a key that had none gets the last turn."""
        self._by_key.setdefault(key, OrderedDict())[item] = None
        self._length += 1

    def discard(self, key: str | None, item: T) -> None:
        """Remove a request, wherever it stands, if it is still there."""
        items = self._by_key.get(key)
        if items is not None and item in items:
            del items[item]
            self._shortened(key, items)

    def first(self) -> T:
        """Return the request whose turn is next, without removing it."""
        return next(iter(next(iter(self._by_key.values()))))

    def popleft(self) -> T:
        """Remove and return the request whose turn is next; its key then gets the last turn."""
        key, items = next(iter(self._by_key.items()))
        item, _ = items.popitem(last=False)
        self._by_key.move_to_end(key)
        self._shortened(key, items)
        return item

    def make_room(self, key: str | None) -> T | None:
        """Remove and return the request that one of `key`'s displaces; None if there is none."""
        if not self._length:
            return None
        longest = max(self._by_key, key=self.count)
        if self.count(key) + 1 >= self.count(longest):
            return None
        items = self._by_key[longest]
        item, _ = items.popitem()
        self._shortened(longest, items)
        return item

    def _shortened(self, key: str | None, items: OrderedDict[T, None]) -> None:
        self._length -= 1
        if not items:
            del self._by_key[key]
