"""One HTTP/1.1 connection that streams chat completions, on a bare protocol so that it costs little."""

from __future__ import annotations

import asyncio
import ssl
import time
from array import array
from typing import cast
from urllib.parse import urlsplit

import httptools

from vllm_engine.client.bench.sse_events import EventReader

now = time.perf_counter
_KEPT_BODY = 300


class Exchange:
    """One request's answer as it comes; the HTTP parser calls its `on_` methods."""

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
        """Take bytes from the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.end(f"not HTTP: {error}")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.status = self._parser.get_status_code()

    def on_body(self, piece: bytes) -> None:
        """Called by the parser, once per HTTP chunk or part of one."""
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
        """Called by the parser."""
        self.keep_alive = self._parser.should_keep_alive()
        self.end(None)

    def end(self, failure: str | None) -> None:
        """End it, at the latest possible moment well."""
        if self.finished.done():
            return
        self.failure = failure or self._verdict()
        if self.failure:
            self.last = now()
        self.finished.set_result(None)

    def _verdict(self) -> str | None:
        if self.status != 200:
            return f"status {self.status}: {self._other_body.decode(errors='replace')}"
        if self.reader.error:
            return self.reader.error
        return None if self.reader.done else "the stream ended without [DONE]"


class Connection(asyncio.Protocol):
    """A connection for one request at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self.is_used = False
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._exchange is not None:
            self._exchange.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.is_open = False
        if self._exchange is not None:
            self._exchange.end(f"connection closed ({exc or 'by the server'})")

    async def ask(self, request: bytes, exchange: Exchange, timeout_seconds: float) -> None:
        """Send a request and wait until its exchange has ended, one way or the other."""
        assert self._transport is not None  # noqa: S101 - for the type checker; ask() follows connect()
        loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._transport.write(request)
        timer = loop.call_later(timeout_seconds, exchange.end, "timeout")
        await exchange.finished
        timer.cancel()
        self._exchange = None
        self.is_used = True
        if exchange.failure or not exchange.keep_alive:
            self.close()

    def close(self) -> None:
        """Close the connection at once: that is how a server learns that nobody listens any more."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()


async def connect(base_url: str) -> Connection:
    """Open a connection to the server of a base URL.

    Raises:
        OSError: it cannot be reached.
    """
    url = urlsplit(base_url)
    context = ssl.create_default_context() if url.scheme == "https" else None
    port = url.port or (443 if context else 80)
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, url.hostname or "", port, ssl=context
    )
    return connection
