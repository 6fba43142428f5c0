"""The limits of admission, the sentence and Retry-After of each refusal, and the estimates they rest on."""

from __future__ import annotations

import math
from typing import NamedTuple

from vllm_engine.gateway.rejection import Rejected

MAX_ESTIMATE_SECONDS = 60
"""Estimates further ahead are worth little, and a client that retries this rarely costs next to nothing."""

ROUNDING_SECONDS = 1e-6
"""Waits shorter than this are rounding errors: a client that comes back on time must not be too early."""

_LATEST = 32
"""How many of the latest requests the estimate follows."""


class Limits(NamedTuple):
    """How many requests may run and wait, in all and for each API key; named as the settings."""

    max_in_flight: int
    """Requests at the engine at once; 0: no limit, and nothing ever waits."""
    max_queue: int
    """Requests that may wait for a place; 0: none waits, each is served or refused at once."""
    queue_timeout_seconds: float
    """How long a request may wait for a place; 0: as long as its client does."""
    key_max_in_flight: int
    """Requests one key may have open at once, running or waiting; 0: no limit."""
    key_requests_per_minute: int
    """Requests of one key that run per minute, of which all may come at once; 0: no limit."""
    key_tokens_per_minute: int
    """Prompt and answer tokens of one key per minute; 0: no limit. Prompts are charged before they run, by an
    estimate, answers once they are known."""

    def queue_is_full(self, seconds: float) -> Rejected:
        """Refuse a new request for which there is neither a place at the engine nor one in the queue."""
        waits = f" and {self.max_queue} more wait" if self.max_queue else ""
        return self._over(
            "saturated",
            seconds,
            f"The server is at its limit: {self.max_in_flight} requests run{waits} "
            f"(MAX_IN_FLIGHT={self.max_in_flight}, MAX_QUEUE={self.max_queue})",
        )

    def displaced(self, seconds: float) -> Rejected:
        """Refuse a waiting request whose key has most of a full queue, in favour of another key's."""
        return self._over(
            "saturated",
            seconds,
            "The queue is full, mostly with this client's requests, so this one made room for another "
            f"client's (MAX_QUEUE={self.max_queue})",
        )

    def waited_too_long(self, seconds: float) -> Rejected:
        """Refuse a request whose turn did not come in time."""
        return self._over(
            "queue_timeout",
            seconds,
            f"This request waited {self.queue_timeout_seconds:g} s without getting its turn "
            f"(QUEUE_TIMEOUT_SECONDS={self.queue_timeout_seconds:g}, MAX_IN_FLIGHT={self.max_in_flight})",
        )

    def too_many_open(self, key: str | None, seconds: float) -> Rejected:
        """Refuse one more request of a key that has as many open as it may."""
        limit = self.key_max_in_flight
        message = f"{_who(key)} {limit} requests running or waiting (KEY_MAX_IN_FLIGHT={limit})"
        return self._over("key_concurrency", seconds, message)

    def out_of_requests(self, key: str | None, seconds: float) -> Rejected:
        """Refuse a key that has used up its requests per minute; the next is allowed in `seconds`."""
        message = f"{_who(key)} used up the requests allowed per minute"
        setting = f"KEY_REQUESTS_PER_MINUTE={self.key_requests_per_minute}"
        return _over_limit("key_requests", whole_seconds(seconds), f"{message} ({setting})")

    def out_of_tokens(self, key: str | None, seconds: float) -> Rejected:
        """Refuse a key that has used up its tokens per minute; there are some again in `seconds`."""
        message = f"{_who(key)} used up the tokens allowed per minute"
        setting = f"KEY_TOKENS_PER_MINUTE={self.key_tokens_per_minute}"
        return _over_limit("key_tokens", whole_seconds(seconds), f"{message} ({setting})")

    def _over(self, reason: str, estimate: float, message: str) -> Rejected:
        return _over_limit(reason, min(MAX_ESTIMATE_SECONDS, whole_seconds(estimate)), message)


class Pace:
    """How long requests hold their places, learned from those that ended.

    The rate at which places become free follows from it (Little's law): n running requests of mean duration d
    end at n/d a second. Counting endings would mislead: few end where few are sent, and requests that were
    sent together end together.
    """

    __slots__ = ("_mean", "_seen", "quiet_since")

    def __init__(self, now: float) -> None:
        self._mean = 0.0
        self._seen = 0
        self.quiet_since = now
        """Since when all places have been taken and none has become free; monotonic seconds."""

    def ended(self, held_seconds: float, now: float) -> None:
        """Note that a request has left its place."""
        if self._seen < _LATEST:
            self._seen += 1
        self._mean += (held_seconds - self._mean) / self._seen
        self.quiet_since = now

    def seconds_until_one(self, running: int) -> float:
        """Estimate when the first of `running` requests ends."""
        return self._mean / running

    def seconds_until(self, endings: int, running: int, now: float) -> float:
        """Estimate when `endings` places will have become free, while all `running` are taken."""
        # An engine that ends nothing gives nothing to learn from, so its silence has to count.
        return endings * max(self._mean, now - self.quiet_since) / running


def _over_limit(reason: str, seconds: int, message: str) -> Rejected:
    return Rejected(429, reason, message, retry_after_seconds=seconds)


def whole_seconds(seconds: float) -> int:
    """Round up for a `Retry-After`, to 1 at least."""
    return max(1, math.ceil(seconds - ROUNDING_SECONDS))


def _who(key: str | None) -> str:
    return "Clients without an API key together have" if key is None else "This API key has"
