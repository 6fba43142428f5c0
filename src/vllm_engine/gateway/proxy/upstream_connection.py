"""One connection to the engine: HTTP/1.1 over its Unix socket, one request at a time.

Own code where a client library would do, because this is the data path: a library's client wakes a task
for every chunk, and that costs more than the rest of the gateway together (docs/measured/benchmarks.md).
The parsing is llhttp's, by httptools.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

import httptools

from vllm_engine.gateway.http.chunk_framing import is_event
from vllm_engine.system.shortage import is_own_shortage

MAX_HEADER_BYTES = 65_536
"""Status line and headers of a response together."""

_PIECE_BYTES = 262_144
"""Bytes of a body that are written at once: more only when the engine has read these."""


class UpstreamError(Exception):
    """The engine could not be reached, or broke off; `client_message` says so to the client."""

    def __init__(
        self,
        message: str,
        client_message: str = "The engine broke off this request",
        *,
        is_unread: bool = False,
        own_reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.client_message = client_message
        self.is_unread = is_unread
        """Whether the engine has certainly not begun with the request: it has not read all of it."""
        self.own_reason = own_reason
        """Why it was the gateway that failed or ended the request; that proves nothing about the engine."""

    @property
    def status(self) -> int:
        """The status for the client, where no response has begun: clients retry after a 503."""
        return 503 if self.is_unread or self.own_reason else 502


def own_shortage(error: BaseException | None) -> UpstreamError:
    """Return the error for a request that failed because this process lacks files, memory or connections."""
    message = f"the gateway is short of files, memory or connections ({error!r})"
    client_message = "The gateway is short of files, memory or connections; try again later"
    return UpstreamError(message, client_message, own_reason="shortage")


class ResponseSink(Protocol):
    """Takes a response as it comes, called from the event loop; must not block or raise."""

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """The status line and all headers are here."""

    def on_data(self, data: bytes, *, is_last: bool) -> None:
        """All that came at once of the body is here, without its transfer coding.

        `is_last`: `on_end` follows at once. The end may also come by itself.
        """

    def on_event(self, chunk: bytes) -> None:
        """More of the body is here, as the chunk that it came in (see `is_event`); never its beginning."""

    def on_end(self) -> None:
        """The response is complete."""

    def on_broken(self, error: UpstreamError) -> None:
        """The connection ended before the response did."""


class UpstreamConnection(asyncio.Protocol):
    """One connection; `start` sends a request, whose sink is told of everything else."""

    def __init__(
        self, keep: Callable[[UpstreamConnection], None], forget: Callable[[UpstreamConnection], None]
    ) -> None:
        """Take what keeps it for the next request, and what forgets it once it is closed."""
        self._keep = keep
        self._forget = forget
        self._transport: asyncio.Transport | None = None
        self._arrivals = select.poll()
        self._parser = httptools.HttpResponseParser(self)
        self._sink: ResponseSink | None = None
        self._is_head_request = False
        self._unsent = memoryview(b"")
        self._socket_copy: socket.socket | None = None
        self._can_write = True
        self._headers: list[tuple[bytes, bytes]] = []
        self._header_bytes = 0
        self._in_head = True
        self._pieces: list[bytes] = []
        self._is_between_chunks = False
        """Whether the parser expects a chunk to begin: it need not see one that comes whole."""
        self._complete = False
        self._ends_with_connection = False
        self._is_tainted = False
        self._is_unread = False
        self._may_be_kept = False
        self.reused = False
        self.closed = False

    def start(
        self, head: bytes, body: bytes | bytearray, sink: ResponseSink, *, is_head_request: bool = False
    ) -> None:
        """Send one request, whose head ends with the empty line; the response goes to `sink`.

        A HEAD's response has no body whatever its headers say (RFC 9110, section 9.3.2).
        """
        assert self._transport is not None  # noqa: S101 - the pool hands out connected ones only
        self._sink = sink
        self._is_head_request = is_head_request
        if len(body) <= _PIECE_BYTES:
            self._transport.write(head + body)
            return
        # The transport's copy of all of a large body would be a second one in memory. And an engine that
        # refuses it unread closes the connection: what is written after that would hide its response.
        self._transport.write(head)
        self._unsent = memoryview(body)
        # The transport drops what it has not read when a write fails; the socket itself does not.
        with suppress(OSError):  # without one, such a response is lost and the request is sent once more
            self._socket_copy = socket.socket(
                fileno=os.dup(self._transport.get_extra_info("socket").fileno())
            )
        self._write_on()

    @property
    def is_quiet(self) -> bool:
        """Whether an idle connection is open, and holds nothing that the event loop has yet to read.

        The loop may serve the next client before it reads what the engine sent unasked, or its close.
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
        """Close the connection now, which tells vLLM to stop generating."""
        self._sink = None
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio's protocol.
    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        # uvloop's transports are not subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._arrivals.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._sink is None:
            self.abort()  # unasked: what comes now must not become the next request's response
            return
        if self._is_between_chunks and is_event(data):
            self._sink.on_event(data)
            return
        problem: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._is_tainted = True
            problem = error
        self._is_between_chunks = False
        sink = self._sink
        if self._pieces and sink is not None:
            pieces, self._pieces = self._pieces, []
            # A line end after an event is content, and then the last piece ends with it, or it ends a chunk.
            # No size or header stands before it: a bare line feed in those is an error.
            self._is_between_chunks = data.endswith(b"\n\n\r\n") and pieces[-1].endswith(b"\n\n")
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            sink.on_data(data, is_last=self._complete)
        if self._complete:
            self._finish()
        elif problem is not None:
            self._broken(UpstreamError(f"the engine's response is not valid HTTP: {problem}"))
        elif self._in_head:
            # What the parser holds of a header that has no end yet.
            self._header_bytes += len(data)
            if self._header_bytes > 4 * MAX_HEADER_BYTES:
                self._broken(UpstreamError("the engine's headers are too large"))

    def pause_writing(self) -> None:  # noqa: D102
        self._can_write = False

    def resume_writing(self) -> None:  # noqa: D102
        self._can_write = True
        self._write_on()

    def eof_received(self) -> bool:  # noqa: D102
        self._is_unread = self._is_unread or self._unread_bytes() > 0
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.closed = True
        # unix(7): whoever writes to, or waits at, a connection that was closed with something in it unread
        # gets one of these two; after a close that left nothing unread there is an orderly end.
        is_refused = isinstance(exc, BrokenPipeError | ConnectionResetError)
        is_unread = self._is_unread or is_refused or bool(self._unsent)
        self._forget(self)
        self._read_socket_copy()
        if self._ends_with_connection and exc is None:
            self._finish()
            return
        if is_own_shortage(exc):
            self._broken(own_shortage(exc))
            return
        message = f"the engine closed the connection{f' ({exc})' if exc else ''}"
        self._broken(UpstreamError(message, is_unread=is_unread))

    # Called by the parser.
    def on_message_begin(self) -> None:  # noqa: D102
        # A second response to one request belongs to nobody.
        self._is_tainted = self._is_tainted or self._complete
        if not self._complete:
            self._headers = []
            self._header_bytes = 0
            self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102
        # Trailers come here too: they are not headers.
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
                # It has responded without the rest.
                self._unsent = memoryview(b"")
                self._is_tainted = True
            names = {name for name, _ in self._headers}
            # RFC 9112, section 6.3: without either, the body ends with the connection.
            self._ends_with_connection = not names & {b"content-length", b"transfer-encoding"}
            self._sink.on_head(status, self._headers)
            # There is no way to say to the parser that no body follows: it would wait for one.
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
        """Return how much of the request the engine has not read when it ends its side of the connection.

        It may half-close first and discard what still comes (RFC 9112, section 9.6), which looks orderly.
        """
        assert self._transport is not None  # noqa: S101 - it has been connected
        try:
            there = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(there, sys.byteorder) + self._transport.get_write_buffer_size()

    def _read_socket_copy(self) -> None:
        """Take what the engine sent before it closed the connection while we were writing."""
        copy, self._socket_copy = self._socket_copy, None
        if copy is None:
            return
        with copy, suppress(OSError):
            data = copy.recv(_PIECE_BYTES) if self._sink is not None else b""
            if data:
                self.data_received(data)

    def _write_on(self) -> None:
        transport = self._transport
        # A transport that fails says first that it can be written to, and takes what is written to nowhere.
        while self._unsent and self._can_write and transport is not None and not transport.is_closing():
            piece, rest = self._unsent[:_PIECE_BYTES], self._unsent[_PIECE_BYTES:]
            # An empty view would hold the whole body for as long as the connection is kept.
            self._unsent = rest or memoryview(b"")
            transport.write(piece)

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        self._read_socket_copy()
        reusable = self._may_be_kept and not (self._is_head_request or self._is_tainted or self.closed)
        self._complete = False
        self._is_between_chunks = False
        self._ends_with_connection = False
        self._may_be_kept = False
        if sink is not None:
            sink.on_end()
        if reusable:
            # The last piece may have paused it, and nothing else would resume it.
            self.resume()
            self._keep(self)
        else:
            self.abort()

    def _broken(self, error: UpstreamError) -> None:
        sink, self._sink = self._sink, None
        self.abort()
        if sink is not None:
            sink.on_broken(error)
