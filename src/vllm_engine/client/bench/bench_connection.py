"""An HTTP/1.1 connection that streams chat completions; a bare asyncio protocol, to cost little."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from array import array
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

now = time.perf_counter
_KEPT_BODY = 300
_NOT_A_MERE_TOKEN = (b"[DONE]", b'"completion_tokens"', b'"error"', b"\n:")


class EventReader:
    """Counts the token events of one server-sent event stream and reads its other events.

    A token event is one with choices, as `vllm bench serve` counts them. Almost every event is a plain token,
    so only pieces that may contain another kind are decoded.
    """

    __slots__ = ("_rest", "done", "error", "tokens")

    def __init__(self) -> None:
        self._rest = b""
        self.done = False
        self.error: str | None = None
        self.tokens: int | None = None
        """Completion tokens as counted by the server."""

    def feed(self, piece: bytes) -> int:
        """Take the next piece of the body, however it was cut; return how many token events it completed."""
        data = self._rest + piece if self._rest else piece
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        end = len(data) if data.endswith(b"\n\n") else data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return 0
        whole, self._rest = data[:end], data[end:]
        if whole[:1] == b":" or any(mark in whole for mark in _NOT_A_MERE_TOKEN):
            return sum(map(self._is_token, whole.split(b"\n\n")))
        return whole.count(b"\n\n")

    def _is_token(self, event: bytes) -> bool:
        data = b"".join(line[5:].lstrip() for line in event.split(b"\n") if line.startswith(b"data:"))
        if not data:
            return False
        if data == b"[DONE]":
            self.done = True
            return False
        try:
            content: Any = json.loads(data)
        except ValueError:
            self.error = f"expected an event with JSON, got {data[:100]!r}"
            return False
        if not isinstance(content, dict) or content.get("error"):
            self.error = f"error event: {data[:200].decode(errors='replace')}"
            return False
        if usage := content.get("usage"):
            self.tokens = usage.get("completion_tokens")
        return bool(content.get("choices"))


class Exchange:
    """One request and the response to it, with the times of its events."""

    def __init__(self) -> None:
        self.sent = now()
        self.first: float | None = None
        self.last = self.sent
        self.gaps = array("d")
        self.events = 0
        self.status = 0
        self.reader = EventReader()
        self.failure: str | None = None
        self.finished = asyncio.get_running_loop().create_future()
        self.keep_alive = False
        self._parser = httptools.HttpResponseParser(self)
        self._other_body = b""

    def feed(self, data: bytes) -> None:
        """Parse bytes of the response."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(f"invalid HTTP: {error}")

    def on_headers_complete(self) -> None:
        """Store the status (parser callback)."""
        self.status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        """Count and time events (parser callback, once for each part of an HTTP chunk)."""
        if self.status != 200:
            self._other_body = (self._other_body + piece)[:_KEPT_BODY]
            return
        events = self.reader.feed(piece)
        if not events:
            return
        moment = now()
        self.events += events
        if self.first is None:
            self.first = moment
        else:
            self.gaps.append(moment - self.last)
        if events > 1:
            self.gaps.extend([0.0] * (events - 1))
        self.last = moment

    def on_message_complete(self) -> None:
        """End the exchange (parser callback)."""
        self.keep_alive = self._parser.should_keep_alive()
        self.end(None)

    def end(self, failure: str | None) -> None:
        """End it; without a failure given, by what was received. Later calls have no effect."""
        if self.finished.done():
            return
        self.failure = failure or self._failure()
        if self.failure:
            self.last = now()
        self.finished.set_result(None)

    def _failure(self) -> str | None:
        if self.status != 200:
            return f"status {self.status}: {self._other_body.decode(errors='replace')}"
        if self.reader.error:
            return self.reader.error
        return None if self.reader.done else "incomplete answer: no [DONE]"


class Connection(asyncio.Protocol):
    """A connection for one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Pass data to the current exchange."""
        if self._exchange is not None:
            self._exchange.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the current exchange."""
        self.is_open = False
        if self._exchange is not None:
            self._exchange.end(f"connection closed ({exc or 'by the server'})")

    async def ask(self, request: bytes, exchange: Exchange, timeout_seconds: float) -> None:
        """Send a request and wait until its exchange has ended, with or without a failure."""
        assert self._transport is not None  # noqa: S101 - for the type checker; ask() follows connect()
        loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._transport.write(request)
        timer = loop.call_later(timeout_seconds, exchange.end, "timeout")
        await exchange.finished
        timer.cancel()
        self._exchange = None
        if exchange.failure or not exchange.keep_alive:
            self.close()

    def close(self) -> None:
        """Abort the connection, so that the server notices at once."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()


async def connect(base_url: str, tls: ssl.SSLContext | None = None) -> Connection:
    """Connect to the server of a base URL, over HTTPS with `tls` or the system's authorities.

    Raises:
        OSError: it cannot be reached.
    """
    url = urlsplit(base_url)
    context = (tls or ssl.create_default_context()) if url.scheme == "https" else None
    port = url.port or (443 if context else 80)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, url.hostname or "", port, ssl=context
    )
    return connection
