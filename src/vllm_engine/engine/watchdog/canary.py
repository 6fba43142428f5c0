"""One token, asked for while nothing else is: does the engine core still work?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable

from vllm_engine.engine.control_client import UnaskedError
from vllm_engine.engine.watchdog.child_watcher import Activity
from vllm_engine.engine.watchdog.patience import Patience

_LOOK_SECONDS = 2.0
_BUSY_SHARE = 0.05
"""Of one core's time: an idle or stuck engine core takes less, whatever its threads do beside it."""


class Canary:
    """Asks, and decides when no answer means that nothing is being done about one.

    A step may take longer than ever: while there is evidence that the engine works on it, its patience is
    `HANG_TIMEOUT_SECONDS`, and else what the engine's own past suggests.
    """

    def __init__(
        self,
        generate: Callable[[], Awaitable[None]],
        look: Callable[[], Awaitable[Hashable]],
        activity: Callable[[], Activity | None],
        patience: Patience,
    ) -> None:
        """Take how to ask and where to look.

        Args:
            generate: asks for one token; no time limit of its own.
            look: returns what changes as the engine core works; raises `UnaskedError` where we cannot ask.
            activity: returns what the operating system says of the core; None where it cannot be told.
            patience: by the engine's past, to which the answer is added.
        """
        self._generate = generate
        self._look = look
        self._activity = activity
        self._patience = patience

    async def seconds_in_vain(self) -> float | None:
        """Ask once; returns None when the token came, else how long nothing was done about it.

        Raises:
            ProbeError: it fails to generate.
            UnaskedError: it could not be asked.
        """
        loop = asyncio.get_running_loop()
        sign, activity = await self._look(), self._activity()
        began = moved = loop.time()
        works = False
        asked = asyncio.ensure_future(self._generate())
        pause = min(_LOOK_SECONDS, self._patience.seconds / 4)
        try:
            while not (await asyncio.wait({asked}, timeout=pause))[0]:
                try:
                    now_sign = await self._look()
                except UnaskedError:
                    continue
                now = loop.time()
                if now_sign != sign:
                    sign, moved, works = now_sign, now, True
                seen = self._activity()
                works = works or is_busy(activity, seen, now - began)
                limit = self._patience.most_seconds if works else self._patience.seconds
                if now - moved > limit and not asked.done():
                    return now - moved
            await asked
            self._patience.took(loop.time() - began)
            return None
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)


def is_busy(before: Activity | None, now: Activity | None, seconds: float) -> bool:
    """Whether the core computes, or may for all that is known."""
    if before is None or now is None:
        return True
    return now.is_running or now.cpu_seconds - before.cpu_seconds >= _BUSY_SHARE * seconds
