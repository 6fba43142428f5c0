"""An event loop whose clock jumps: hours pass in no time, and the same on every machine."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine


class _Jumping(selectors.DefaultSelector):
    """A selector that does not wait: it moves the clock on instead."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        assert ready or timeout is not None, "everything waits for something that never comes"
        if not ready:
            self.now += timeout or 0.0
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which an hour's sleep takes no time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def in_virtual_time(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Run a test on a clock of its own; an error in a callback of the loop fails it too."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        errors: list[dict[str, object]] = []
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: errors.append(context))
            runner.run(test(*args, **kwargs))
        assert not errors

    return run
