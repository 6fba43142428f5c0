"""A close after which the client can still read the last answer (RFC 9112, section 9.6)."""

from __future__ import annotations

import asyncio

IDLE_SECONDS = 2.0
TOTAL_SECONDS = 30.0
MAX_BYTES = 64 * 1024 * 1024
"""Twice the largest body by default: who is refused one that is somewhat larger reads why."""


class LingeringClose:
    """Closes our side and throws away what still comes, for a while.

    A connection that is closed with bytes unread is reset, and a client that is reset may lose the answer
    which says why. Nothing that comes is looked at or kept. It ends when the client closes, when nothing has
    come for `IDLE_SECONDS`, and at `TOTAL_SECONDS` or `MAX_BYTES` in any case; nginx's `lingering_close`
    works like that.
    """

    __slots__ = ("_bytes", "_loop", "_seconds", "_seen", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._bytes = 0
        self._seen = 0
        self._seconds = 0.0
        if transport.can_write_eof():  # over TLS there is no half of a close
            transport.write_eof()
        self._timer = loop.call_later(IDLE_SECONDS, self._look)

    def took(self, size: int) -> None:
        """Count bytes that came."""
        self._bytes += size
        if self._bytes > MAX_BYTES:
            self._transport.abort()

    def stop(self) -> None:
        """Stop the clock: the connection is closed."""
        self._timer.cancel()

    def _look(self) -> None:
        self._seconds += IDLE_SECONDS
        if self._bytes == self._seen or self._seconds >= TOTAL_SECONDS:
            self._transport.abort()
            return
        self._seen = self._bytes
        self._timer = self._loop.call_later(IDLE_SECONDS, self._look)
