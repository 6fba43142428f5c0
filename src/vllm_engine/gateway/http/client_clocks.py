"""The clocks of a client's connection: for responses, for clients that may be gone, for the last close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vllm_engine.gateway.http.peer_socket import Delivery, PeerState, delivery_of, state_of

SLOWEST_BYTES_PER_SECOND = 240
"""Kestrel's `MinResponseDataRate`: slower than any line, far slower than any model."""

IDLE_SECONDS = 2.0
TOTAL_SECONDS = 30.0
MAX_BYTES = 64 * 1024 * 1024
"""Twice the largest body by default: a client whose body is somewhat too large reads why it was refused."""

_CHECK_SECONDS = 0.1
_PROBE_SECONDS = 15.0


class _Clock:
    """Checks a connection again and again until it is stopped."""

    __slots__ = ("_loop", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Check no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_in(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        raise NotImplementedError


class SendTimer(_Clock):
    """Cuts a connection whose client reads nothing of a response for a while, or next to nothing overall.

    It runs only while something that was written waits for the client. What counts is what the client's side
    has acknowledged: the buffers of our own side empty in lumps, of megabytes for a slow client.
    """

    __slots__ = ("_cut", "_first", "_last", "_seconds", "_started")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        seconds: float,
        cut: Callable[[], None],
    ) -> None:
        """Take how long the client may read nothing, and `cut`, which closes the connection."""
        super().__init__(loop, transport)
        self._seconds = seconds
        self._cut = cut
        self._started = 0.0
        self._first = self._last = Delivery(0, 0)

    def start(self) -> None:
        """Start, unless it runs already."""
        if self._timer is None:
            self._started = self._loop.time()
            self._first = self._last = delivery_of(self._transport)
            self._check_in(self._seconds)

    def _check(self) -> None:
        self._timer = None
        if not self._transport.get_write_buffer_size():
            return
        now = delivery_of(self._transport)
        least = SLOWEST_BYTES_PER_SECOND * (self._loop.time() - self._started)
        if now.since(self._last) <= 0 or now.since(self._first) < least:
            self._cut()
            return
        self._last = now
        self._check_in(self._seconds)


class PeerWatch(_Clock):
    """Finds out whether a client that sends nothing more still reads, or has disconnected.

    After a FIN only something that is written tells the two apart: one that has closed answers it with a
    reset, which the kernel notes although nothing is read.
    """

    __slots__ = ("_disconnected", "_probe", "_probed")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        probe: Callable[[], bool],
        disconnected: Callable[[], None],
    ) -> None:
        """Take the callbacks.

        `probe` writes something that clients ignore, and returns False where nothing may be written;
        `disconnected` is called once.
        """
        super().__init__(loop, transport)
        self._probe = probe
        self._disconnected = disconnected
        self._probed = 0.0

    def start(self, first_probe_seconds: float) -> None:
        """Start, unless it runs already; a response that ends before the first probe needs none."""
        if self._timer is None:
            self._probed = self._loop.time() + first_probe_seconds - _PROBE_SECONDS
            self._check_in(0)

    def _check(self) -> None:
        self._timer = None
        state = state_of(self._transport)
        now = self._loop.time()
        if state is PeerState.FINISHED and now - self._probed >= _PROBE_SECONDS:
            self._probed = now
            if not self._probe():
                state = PeerState.GONE
        if state is PeerState.GONE:
            self._disconnected()
            return
        self._check_in(_CHECK_SECONDS)


class LingeringClose(_Clock):
    """Closes our side, and discards what still comes for a while, so that the client reads the last response.

    A connection that is closed with bytes unread is reset, and a client that is reset may lose the response
    (RFC 9112, section 9.6). It ends when the client closes, when nothing has come for `IDLE_SECONDS`, and at
    `TOTAL_SECONDS` or `MAX_BYTES` in any case, like nginx's `lingering_close`.
    """

    __slots__ = ("_bytes", "_bytes_before", "_deadline")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        super().__init__(loop, transport)
        self._bytes = self._bytes_before = 0
        self._deadline = loop.time() + TOTAL_SECONDS
        if transport.can_write_eof():  # over TLS a connection cannot be half-closed
            transport.write_eof()
        self._check_in(IDLE_SECONDS)

    def discard(self, count: int) -> None:
        """Count bytes that came."""
        self._bytes += count
        if self._bytes > MAX_BYTES:
            self._transport.abort()

    def _check(self) -> None:
        if self._bytes == self._bytes_before or self._loop.time() >= self._deadline:
            self._transport.abort()
            return
        self._bytes_before = self._bytes
        self._check_in(IDLE_SECONDS)
