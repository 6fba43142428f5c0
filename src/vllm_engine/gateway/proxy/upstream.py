"""Connections to the engine: HTTP/1.1 over its Unix socket, one exchange at a time, kept for reuse.

Own code where a client library would do, because this is the data path: a library's client wakes a task
for every chunk, and that costs more than the rest of the gateway together (docs/benchmarks.md). The parsing
is llhttp's, by httptools.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

import httptools

from vllm_engine.system.shortage import is_own_shortage

POOL_KEEP_ALIVE_SECONDS = 60.0
"""Idle connections are closed by us, long before vLLM would close them (see `engine.command`)."""

MAX_IDLE = 256
MAX_HEADER_BYTES = 65_536
"""Status line and headers of an answer together."""

_CONNECT_SECONDS = 10.0
_PIECE = 262_144
"""Bytes of a body that are written at once: more only when the engine has taken these."""


class UpstreamError(Exception):
    """The engine could not be reached, or broke off; `told` is the sentence for the client."""

    def __init__(
        self,
        message: str,
        told: str = "The engine broke off this request",
        *,
        is_unread: bool = False,
        own_reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.told = told
        self.is_unread = is_unread
        """Whether the engine has certainly not begun the request: it has not read all of it."""
        self.own_reason = own_reason
        """Why it was the gateway that failed or ended the request; that says nothing of the engine."""

    @property
    def status(self) -> int:
        """Of the answer, where none has begun: 503 is what clients ask again after."""
        return 503 if self.is_unread or self.own_reason else 502


def _own_shortage(error: BaseException | None) -> UpstreamError:
    message = f"the gateway is short of files, memory or connections ({error!r})"
    told = "The gateway is short of files, memory or connections; try again later"
    return UpstreamError(message, told, own_reason="shortage")


class ResponseSink(Protocol):
    """Takes an answer as it comes, called from the event loop; must not block or raise."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The status line and all headers are here."""

    def on_data(self, data: bytes, *, is_last: bool) -> None:
        """A piece of the body is here, freed of its transfer coding; everything that came at once.

        `is_last`: `on_end` follows at once. The end may also come by itself.
        """

    def on_end(self) -> None:
        """The answer is complete."""

    def on_broken(self, error: UpstreamError) -> None:
        """The connection ended before the answer did."""


class UpstreamConnection(asyncio.Protocol):
    """One connection; `start` begins an exchange, its sink hears of everything else."""

    def __init__(self, pool: Upstream) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._arrivals = select.poll()
        self._parser = httptools.HttpResponseParser(self)
        self._sink: ResponseSink | None = None
        self._is_head_request = False
        self._unsent = memoryview(b"")
        self._spare: socket.socket | None = None
        self._can_write = True
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._in_head = True
        self._pieces: list[bytes] = []
        self._complete = False
        self._ends_with_connection = False
        self._is_spoilt = False
        self._is_unread = False
        self._may_be_kept = False
        self.reused = False
        self.closed = False
        self.expiry: asyncio.TimerHandle | None = None

    def start(
        self, head: bytes, body: bytes | bytearray, sink: ResponseSink, *, is_head_request: bool = False
    ) -> None:
        """Send one request; the answer goes to `sink`.

        Args:
            head: request line and headers, with the empty line.
            body: the whole body.
            sink: told of the answer.
            is_head_request: a HEAD's answer has no body whatever its headers say (RFC 9110, 9.3.2).
        """
        assert self._transport is not None  # noqa: S101 - the pool hands out connected ones only
        self._sink = sink
        self._is_head_request = is_head_request
        if len(body) <= _PIECE:
            self._transport.write(head + body)
            return
        # Its own copy of all of a large body would be a second one in memory. And an engine that refuses it
        # unread closes the connection: what is written after that would hide its answer.
        self._transport.write(head)
        self._unsent = memoryview(body)
        # The transport drops what it has not read when a write fails; the socket itself does not.
        with suppress(OSError):  # without one, such an answer is lost and the request is sent once more
            self._spare = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        self._write_on()

    @property
    def is_quiet(self) -> bool:
        """Whether an idle connection is open, and nothing lies in it that the event loop has yet to hear of.

        The loop may serve the next client before it reads what the engine said unasked, or its close.
        """
        return not (self.closed or self._arrivals.poll(0))

    def pause(self) -> None:
        """Read no more for now: the client is slower than the engine."""
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()

    def abort(self) -> None:
        """End the exchange now; the closed connection tells vLLM to stop generating."""
        self._sink = None
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._sink is None:
            self.abort()  # nobody asked: what comes now must not become the next request's answer
            return
        problem: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._is_spoilt = True
            problem = error
        sink = self._sink
        if self._pieces and sink is not None:
            pieces, self._pieces = self._pieces, []
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            sink.on_data(data, is_last=self._complete)
        if self._complete:
            self._finish()
        elif problem is not None:
            self._broken(UpstreamError(f"the engine's answer is no HTTP: {problem}"))
        elif self._in_head:
            # What the parser holds of a header that has no end yet.
            self._header_bytes += len(data)
            if self._header_bytes > 4 * MAX_HEADER_BYTES:
                self._broken(UpstreamError("the engine's headers are too large"))

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._can_write = False

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._can_write = True
        self._write_on()

    def eof_received(self) -> bool:
        """Called by the event loop."""
        self._is_unread = self._is_unread or self._unread_bytes() > 0
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.closed = True
        # unix(7): whoever writes to, or waits at, a connection that was closed with something in it unread
        # gets one of these two; after a close that left nothing unread there is an orderly end.
        is_refused = isinstance(exc, BrokenPipeError | ConnectionResetError)
        is_unread = self._is_unread or is_refused or bool(self._unsent)
        self._pool.forget(self)
        self._read_spare()
        if self._ends_with_connection and exc is None:
            self._finish()
            return
        if is_own_shortage(exc):
            self._broken(_own_shortage(exc))
            return
        message = f"the engine closed the connection{f' ({exc})' if exc else ''}"
        self._broken(UpstreamError(message, is_unread=is_unread))

    # Called by the parser.
    def on_message_begin(self) -> None:  # noqa: D102
        # A second message in one exchange is nobody's.
        self._is_spoilt = self._is_spoilt or self._complete
        if not self._complete:
            self._headers = []
            self._header_bytes = 0
            self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        # Trailers come here too: they are nobody's headers.
        if self._in_head and not self._complete:
            self._headers.append((name.lower(), value))
            self._header_bytes += len(name) + len(value) + 4
            if self._header_bytes > MAX_HEADER_BYTES:
                raise UpstreamError("its headers are too large")

    def on_headers_complete(self) -> None:  # noqa: D102
        self._in_head = False
        status = self._parser.get_status_code()
        if status == 101 or not 100 <= status <= 599:
            raise UpstreamError(f"its status is {status}")
        if status >= 200 and self._sink is not None and not self._complete:
            if self._unsent or (self._transport is not None and self._transport.get_write_buffer_size()):
                # It has decided without the rest.
                self._unsent = memoryview(b"")
                self._is_spoilt = True
            names = {name for name, _ in self._headers}
            # RFC 9112, section 6.3: without either, the body ends with the connection.
            self._ends_with_connection = not names & {b"content-length", b"transfer-encoding"}
            self._sink.on_head(status, self._headers)
            # The parser cannot be told that no body follows: it would wait for one.
            self._complete = self._is_head_request

    def on_body(self, body: bytes) -> None:  # noqa: D102
        if not self._complete:
            self._pieces.append(body)

    def on_message_complete(self) -> None:  # noqa: D102
        if not self._complete:
            self._complete = self._parser.get_status_code() >= 200
            # The parser knows this here alone: it starts on the next message at once.
            self._may_be_kept = self._parser.should_keep_alive()

    def _unread_bytes(self) -> int:
        """Return how much of the request the engine has not read as it says that it answers no more.

        It may half-close first and throw away what still comes (RFC 9112, section 9.6), which looks orderly.
        """
        assert self._transport is not None  # noqa: S101 - it has been connected
        try:
            there = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(there, sys.byteorder) + self._transport.get_write_buffer_size()

    def _read_spare(self) -> None:
        """Take what the engine said before it closed the connection under our writing."""
        spare, self._spare = self._spare, None
        if spare is None:
            return
        with spare, suppress(OSError):
            said = spare.recv(_PIECE) if self._sink is not None else b""
            if said:
                self.data_received(said)

    def _write_on(self) -> None:
        transport = self._transport
        # A transport that fails says first that it can be written to, and takes what is written to nowhere.
        while self._unsent and self._can_write and transport is not None and not transport.is_closing():
            piece, rest = self._unsent[:_PIECE], self._unsent[_PIECE:]
            # An empty view would hold the whole body for as long as the connection is kept.
            self._unsent = rest or memoryview(b"")
            transport.write(piece)

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        self._read_spare()
        reusable = not (self._is_head_request or self._is_spoilt or self.closed)
        reusable = reusable and self._may_be_kept
        self._complete = False
        self._ends_with_connection = False
        self._may_be_kept = False
        if sink is not None:
            sink.on_end()
        if reusable:
            # The last piece may have paused it, and nobody else would undo that.
            self.resume()
            self._pool.give_back(self)
        else:
            self.abort()

    def _broken(self, error: UpstreamError) -> None:
        sink, self._sink = self._sink, None
        self.abort()
        if sink is not None:
            sink.on_broken(error)


class Upstream:
    """The engine's socket, with a pool of idle connections to it."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self._idle: list[UpstreamConnection] = []

    async def connect(self, *, fresh: bool = False) -> UpstreamConnection:
        """Return a connection: an idle one, or a new one.

        Raises:
            UpstreamError: the engine does not take connections, or we cannot make one.
        """
        while self._idle and not fresh:
            connection = self._idle.pop()
            if connection.expiry is not None:
                connection.expiry.cancel()
            if connection.is_quiet:
                connection.reused = True
                return connection
            connection.close()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_unix_connection(
                    lambda: UpstreamConnection(self), self._socket
                )
        except OSError as error:  # TimeoutError is one
            if is_own_shortage(error):
                raise _own_shortage(error) from error
            raise UpstreamError(
                f"the engine does not take connections ({error!r})", is_unread=True
            ) from error
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next exchange."""
        if len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        self._idle.append(connection)
        loop = asyncio.get_running_loop()
        connection.expiry = loop.call_later(POOL_KEEP_ALIVE_SECONDS, self._expire, connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """Drop a connection that has been closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            connection = self._idle.pop()
            if connection.expiry is not None:
                connection.expiry.cancel()
            connection.close()

    def _expire(self, connection: UpstreamConnection) -> None:
        self.forget(connection)
        connection.close()
