"""A request's body, read completely before the engine gets any of it, with bounds on size, time, memory."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive

from vllm_engine.gateway.body.body_budget import BodyBudget
from vllm_engine.gateway.rejection import Rejected

_SLOWEST_BYTES_PER_SECOND = 16_384
"""Overall: a slower client holds a place and memory longer than an honest one would. Apache has such a rule
too (mod_reqtimeout: `body=20,MinRate=500`)."""


class Bodies:
    """The bounds on all bodies: `max_bytes` of each, and the budget of all together.

    A client may send nothing for `idle_timeout_seconds`; for all of its body it has as long, and a second
    more for each 16 KiB.
    """

    def __init__(self, *, max_bytes: int, idle_timeout_seconds: float, budget: BodyBudget) -> None:
        self.max_bytes = max_bytes
        self.idle_timeout_seconds = idle_timeout_seconds
        self.budget = budget

    def check_announced(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse a body by its announced length, before any of it is read.

        Raises:
            Rejected: it is larger than `MAX_BODY_BYTES`.
        """
        for name, value in headers:
            if name == b"content-length" and int(value) > self.max_bytes:
                raise self.too_large()

    def too_large(self) -> Rejected:
        """Return the refusal of a body that is too large (RFC 9110, section 15.5.14)."""
        return Rejected(413, "body_size", f"The body exceeds MAX_BODY_BYTES={self.max_bytes}")

    def too_slow(self) -> Rejected:
        """Return the refusal of a body that comes too slowly (RFC 9110, section 15.5.9)."""
        seconds = f"{self.idle_timeout_seconds:g}"
        message = (
            f"The body came too slowly: at most {seconds} s may pass without a byte, and in all that and 1 s "
            f"for each 16 KiB (BODY_IDLE_TIMEOUT_SECONDS={seconds})"
        )
        return Rejected(408, "body_timeout", message)


class Body:
    """Holds one request's body while entered, in the task that serves the request.

    Until `keep` it may be evicted for others: the task is cancelled then, wherever it waits, and leaving this
    context raises the refusal in place of the cancellation, as `asyncio.timeout` does.
    """

    def __init__(self, bodies: Bodies, key: str | None) -> None:
        self._bodies = bodies
        self._refusal: Rejected | None = None
        self.key = key
        """The name of the API key for whose share it counts."""
        self.size = 0
        self.data: bytes | bytearray = b""
        """All of it, from `read` to `drop`."""

    def __enter__(self) -> Body:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - each request has one
        self._task = task
        self._cancelling = task.cancelling()
        self._bodies.budget.enter(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bodies.budget.release(self)
        if self._refusal is None or self._task.uncancel() > self._cancelling:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._refusal from None

    async def read(self, receive: Receive, *, is_here: bool = False) -> None:
        """Read the whole body; one that `is_here` already, as most are, never counts as incomplete.

        Raises:
            Rejected: it is too large or does not fit beside the others.
        """
        if is_here:
            self.data = (await receive()).get("body", b"")
            self._take(len(self.data))
        else:
            await self._read_slowly(receive)
        self._bodies.budget.whole(self)

    async def _read_slowly(self, receive: Receive) -> None:
        self._bodies.budget.await_rest(self)
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        idle = self._bodies.idle_timeout_seconds
        self._idle_due = self._total_due = now + idle
        self._timer = self._loop.call_at(self._idle_due, self._check)
        # Not a list: a client may send a million pieces of one byte.
        self.data = data = bytearray()
        try:
            while True:
                message = await receive()
                piece: bytes = message.get("body", b"")
                self._take(len(piece))
                self._idle_due = self._loop.time() + idle
                data += piece
                if not message.get("more_body"):
                    return
        finally:
            self._timer.cancel()

    def keep(self) -> None:
        """Say that the engine has it: from now on it is not evicted."""
        self._bodies.budget.keep(self)

    def drop(self) -> None:
        """Release it: the response has begun, so it is not sent again."""
        self.data = b""
        self._bodies.budget.release(self)

    def evict(self, refusal: Rejected) -> None:
        """End the request with this refusal; only the first one counts."""
        if self._refusal is None:
            self._refusal = refusal
            self._task.cancel()

    def _take(self, count: int) -> None:
        if self.size + count > self._bodies.max_bytes:
            raise self._bodies.too_large()
        self._bodies.budget.grow(self, count)

    def _check(self) -> None:
        due = min(self._idle_due, self._total_due + self.size / _SLOWEST_BYTES_PER_SECOND)
        if self._loop.time() < due:
            self._timer = self._loop.call_at(due, self._check)
        else:
            self.evict(self._bodies.too_slow())
