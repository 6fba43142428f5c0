"""Event loops with virtual clocks: hours pass in no time, and the same on every machine."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, cast


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that does not wait: it moves the clock on instead."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        assert ready or timeout is not None, "everything waits for something that never comes"
        if not ready:
            self.now += timeout or 0.0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A whole event loop in which an hour's sleep takes no time, and what a thread would do is done at once."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is whoever awaits this that gets it
            done.set_exception(error)
        return done


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(6):
        await asyncio.sleep(0)


def in_virtual_time(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Run a test on a clock of its own; an error in a callback of the loop fails it too."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        errors: list[dict[str, object]] = []
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: errors.append(context))
            runner.run(test(*args, **kwargs))
        assert not errors, errors

    return run


class _Timer:
    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.callback = callback
        self.args = args
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class TimerLoop:
    """Timers alone, for objects that need no more of an event loop; time passes when a test says so."""

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
        return self._now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> _Timer:
        timer = _Timer(self._now + delay, callback, args)
        self._timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self._now + seconds
        while True:
            self._timers = [timer for timer in self._timers if not timer.is_cancelled]
            due = min((it for it in self._timers if it.when <= end), key=lambda it: it.when, default=None)
            if due is None:
                self._now = end
                return
            self._timers.remove(due)
            self._now = max(self._now, due.when)
            due.callback(*due.args)
