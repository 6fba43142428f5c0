"""How long an answer may wait for a client that does not read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vllm_engine.gateway.http.peer_socket import Taken, taken_of

SLOWEST_BYTES_PER_SECOND = 240
"""Kestrel's `MinResponseDataRate`: slower than any line, far slower than any model."""


class SendTimer:
    """Cuts a connection whose client takes nothing of an answer for a while, or next to nothing on the whole.

    It runs only while something that was written waits for the client. What counts is what the client's side
    has acknowledged: the buffers of our own side empty in lumps, of megabytes for a slow client.
    """

    __slots__ = ("_begun", "_cut", "_first", "_last", "_loop", "_seconds", "_timer", "_transport")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        seconds: float,
        cut: Callable[[], None],
    ) -> None:
        """Make a timer that is not yet started.

        Args:
            loop: the event loop.
            transport: the connection.
            seconds: how long the client may take nothing (`SEND_TIMEOUT_SECONDS`).
            cut: cuts the connection.
        """
        self._loop = loop
        self._transport = transport
        self._seconds = seconds
        self._cut = cut
        self._begun = 0.0
        self._first = self._last = Taken(0, 0)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, unless it runs already."""
        if self._timer is None:
            self._begun = self._loop.time()
            self._first = self._last = taken_of(self._transport)
            self._timer = self._loop.call_later(self._seconds, self._look)

    def stop(self) -> None:
        """Stop: the client keeps up again, or the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if not self._transport.get_write_buffer_size():
            return
        now = taken_of(self._transport)
        due = SLOWEST_BYTES_PER_SECOND * (self._loop.time() - self._begun)
        if now.since(self._last) <= 0 or now.since(self._first) < due:
            self._cut()
            return
        self._last = now
        self._timer = self._loop.call_later(self._seconds, self._look)
