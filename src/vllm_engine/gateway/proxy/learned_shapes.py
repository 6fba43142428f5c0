"""Shapes of requests that the Rust frontend refuses and the Python frontend accepts, as answers show."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MOST_SHAPES: Final = 1024
"""Of those beyond, the ones that were not met for longest are forgotten."""
FIRST_TRIAL_SECONDS: Final = 1.0
"""So long after a refusal one request of the shape is tried again; twice as long after each trial."""
LONGEST_TRIAL_SECONDS: Final = 60.0
MIXED_SECONDS: Final = 600.0
"""So long nothing is learnt of a shape of which the Rust frontend has accepted a request."""
FORGOTTEN_SECONDS: Final = 3600.0
"""So long after its last request a shape is forgotten."""

Key = tuple[str | None, str, int]
"""The API key's name, the route, the shape: what one user teaches is not applied to another."""


@dataclass(slots=True)
class _Refusals:
    next_trial: float
    wait: float = FIRST_TRIAL_SECONDS


class LearnedShapes:
    """Remembers refusals, with trials whether they still hold.

    One request whose values alone were at fault must not send all that look like it to the slower frontend
    for long: the trials begin soon, and the first that succeeds makes the shape count as mixed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._refused: OrderedDict[Key, _Refusals] = OrderedDict()
        self._mixed_until: OrderedDict[Key, float] = OrderedDict()
        self._refused_of: Counter[tuple[str | None, str]] = Counter()

    def may_know(self, key_name: str | None, route: str) -> bool:
        """Whether there is a reason to look at the shapes of this user's requests on this route."""
        return bool(self._refused_of) and self._refused_of[key_name, route] > 0

    def clear(self) -> None:
        """Forget everything, as when another engine runs."""
        self._refused.clear()
        self._refused_of.clear()
        self._mixed_until.clear()

    def is_refused(self, key: Key) -> bool:
        """Whether the Rust frontend need not be asked; False for one request whenever a trial is due."""
        now = self._clock()
        if (known := self._refused.get(key)) is not None:
            self._refused.move_to_end(key)
            if now < known.next_trial:
                return True
            known.wait = min(2 * known.wait, LONGEST_TRIAL_SECONDS)
            known.next_trial = now + known.wait
        oldest = next(iter(self._refused), None)
        if oldest is not None and now >= self._refused[oldest].next_trial + FORGOTTEN_SECONDS:
            self._drop(oldest)
        return False

    def refused(self, key: Key) -> None:
        """Learn that the Rust frontend refused what the Python frontend then accepted."""
        now = self._clock()
        if now < self._mixed_until.get(key, now):
            return
        self._mixed_until.pop(key, None)
        # Of many at once all are refused before the first can teach anything.
        if key not in self._refused:
            self._refused[key] = _Refusals(now + FIRST_TRIAL_SECONDS)
            self._refused_of[key[:2]] += 1
            if len(self._refused) > MOST_SHAPES:
                self._drop(next(iter(self._refused)))

    def accepted(self, key: Key) -> None:
        """Learn that the Rust frontend accepted one, if it is known to have refused others."""
        if key in self._refused:
            self._drop(key)
            self._mixed_until[key] = self._clock() + MIXED_SECONDS
            if len(self._mixed_until) > MOST_SHAPES:
                self._mixed_until.popitem(last=False)

    def _drop(self, key: Key) -> None:
        del self._refused[key]
        self._refused_of[key[:2]] -= 1
        if not self._refused_of[key[:2]]:
            del self._refused_of[key[:2]]
