"""A request's body, read whole before the engine hears of it: bounded in size, time and sum."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive

_SLOWEST_BYTES_PER_SECOND = 16_384
"""Who sends a large body slower than this, all in all, holds memory longer than an honest client would."""
_SMALL_BYTES = 65_536


class BodyError(Exception):
    """The body cannot be taken; carries the answer."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class BodyReader:
    """Reads bodies for every request of the gateway, and bounds what they take together."""

    def __init__(self, *, max_bytes: int, idle_timeout_seconds: float, max_total_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._idle_timeout = idle_timeout_seconds
        self._max_total = max_total_bytes
        self._total = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of all bodies that are held now."""
        return self._total

    def check_announced(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Refuse a body by its announced length, before any of it is read.

        Raises:
            BodyError: it is larger than `MAX_BODY_BYTES`.
        """
        for name, value in headers:
            if name == b"content-length" and int(value) > self._max_bytes:
                raise self._too_large()

    async def read(self, receive: Receive) -> bytes:
        """Read the whole body; `release` it when it is no longer needed.

        Raises:
            BodyError: it is too large, too slow, or does not fit beside the others.
        """
        began = time.monotonic()
        message = await self._next(receive, self._idle_timeout)
        body: bytes = message.get("body", b"")
        self._take(len(body), 0)
        if not message.get("more_body"):
            return body
        pieces = [body]
        size = len(body)
        try:
            while message.get("more_body"):
                message = await self._next(receive, self._patience(size, time.monotonic() - began))
                piece: bytes = message.get("body", b"")
                self._take(len(piece), size)
                size += len(piece)
                pieces.append(piece)
        except BaseException:
            self._total -= size
            raise
        return b"".join(pieces)

    def release(self, body: bytes) -> None:
        """Say that a body is no longer held."""
        self._total -= len(body)

    def _patience(self, size: int, seconds: float) -> float:
        """Return how long the next piece may take: less for who has been slow on the whole.

        A small body may take its time, as it holds next to nothing.
        """
        if size <= _SMALL_BYTES:
            return self._idle_timeout
        due = self._idle_timeout + size / _SLOWEST_BYTES_PER_SECOND
        return max(0.0, min(self._idle_timeout, due - seconds))

    async def _next(self, receive: Receive, seconds: float) -> Message:
        try:
            async with asyncio.timeout(seconds):
                return await receive()
        except TimeoutError:
            message = f"The body came too slowly; BODY_IDLE_TIMEOUT_SECONDS={self._idle_timeout:g}"
            raise BodyError(408, "body_timeout", message) from None

    def _take(self, piece: int, before: int) -> None:
        if before + piece > self._max_bytes:
            raise self._too_large()
        if self._total + piece > self._max_total:
            raise BodyError(503, "memory", "Too many large requests at once; try again later")
        self._total += piece

    def _too_large(self) -> BodyError:
        return BodyError(413, "body_size", f"The body exceeds MAX_BODY_BYTES={self._max_bytes}")
