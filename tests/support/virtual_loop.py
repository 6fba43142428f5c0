"""An event loop of timers alone, whose time passes when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast


class _Timer:
    """As asyncio's own, which needs a loop of its own kind."""

    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.callback = callback
        self.args = args
        self.is_cancelled = False

    def cancel(self) -> None:
        """Forget it."""
        self.is_cancelled = True


class VirtualLoop:
    """Only what objects with timers need of an event loop."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[_Timer] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """This, as its users know it."""
        return cast(asyncio.AbstractEventLoop, self)

    @property
    def pending(self) -> int:
        """How many timers are set."""
        return sum(not timer.is_cancelled for timer in self._timers)

    def time(self) -> float:
        """Return the time in seconds."""
        return self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> _Timer:
        """Set a timer."""
        timer = _Timer(self._now + delay, callback, args)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self._now + seconds
        while True:
            self._timers = [timer for timer in self._timers if not timer.is_cancelled]
            due = min((timer for timer in self._timers if timer.when <= end), key=_when, default=None)
            if due is None:
                self._now = end
                return
            self._timers.remove(due)
            self._now = max(self._now, due.when)
            due.callback(*due.args)


def _when(timer: _Timer) -> float:
    return timer.when
