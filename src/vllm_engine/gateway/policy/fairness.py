"""What is fair between API keys: an allowance for each, and turns in the queue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from vllm_engine.gateway.policy.admission_limits import ROUNDING_SECONDS, Limits

T = TypeVar("T", bound=Hashable)


class Bucket:
    """One allowance per minute: it starts full, refills evenly, and may be overdrawn.

    Overdrawn, because what a request costs is known only after it ran: the debt is paid by
    waiting. Times are seconds of one monotonic clock.
    """

    __slots__ = ("_at", "_capacity", "_level", "_per_second")

    def __init__(self, per_minute: int, now: float) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / 60
        self._level = self._capacity
        self._at = now

    def take(self, amount: int, now: float) -> None:
        """Take out `amount`, whether or not it is there; a negative amount is given back."""
        self._refill(now)
        self._level = min(self._capacity, self._level - amount)

    def seconds_until_one(self, now: float) -> float:
        """Return how long until there is one whole unit to take: 0.0 where there is."""
        self._refill(now)
        seconds = (1 - self._level) / self._per_second
        return seconds if seconds > ROUNDING_SECONDS else 0.0

    def is_full(self, now: float) -> bool:
        """Whether nothing is owed: such a bucket is as good as a new one."""
        self._refill(now)
        return self._level >= self._capacity

    def _refill(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._at) * self._per_second)
        self._at = now


class KeyState:
    """What is known of one API key: the places it has and waits for, and its allowances (None: no limit)."""

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
        """Whether nothing runs and nothing is owed, so that forgetting the key changes nothing."""
        buckets = (self.requests, self.tokens)
        return not self.in_flight and all(bucket is None or bucket.is_full(now) for bucket in buckets)


class FairQueue(Generic[T]):
    """Waiting requests under their keys: round-robin by key, first come first served within one.

    The share rule: one key alone may fill the queue. In a full queue, a key that has fewer waiting
    than another may put one of its own in the place of the newest of the key that has most, as long
    as it then still has no more than the other. Shares become equal that way, and nothing is kept
    free for keys that do not come. Every step takes constant time; `make_room` looks at each key.
    """

    def __init__(self) -> None:
        # First is the key whose turn it is. Unlike a deque, an OrderedDict lets go of any item in
        # constant time; unlike a dict, also of the first, however many went before it.
        self._by_key: OrderedDict[str | None, OrderedDict[T, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def count(self, key: str | None) -> int:
        """Return how many of a key's requests wait."""
        items = self._by_key.get(key)
        return len(items) if items else 0

    def append(self, key: str | None, item: T) -> None:
        """Add a request as the last of its key; a key that had none gets the last turn."""
        self._by_key.setdefault(key, OrderedDict())[item] = None
        self._length += 1

    def discard(self, key: str | None, item: T) -> None:
        """Take a request out, wherever it stands; do nothing where it has gone already."""
        items = self._by_key.get(key)
        if items is not None and item in items:
            del items[item]
            self._shortened(key, items)

    def first(self) -> T:
        """Return the request whose turn it is, and leave it where it is."""
        return next(iter(next(iter(self._by_key.values()))))

    def popleft(self) -> T:
        """Take out the request whose turn it is; its key's next turn comes after all the others'."""
        key, items = next(iter(self._by_key.items()))
        item, _ = items.popitem(last=False)
        self._by_key.move_to_end(key)
        self._shortened(key, items)
        return item

    def make_room(self, key: str | None) -> T | None:
        """Take out the request that must yield to one of `key`'s; None where none has to."""
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
