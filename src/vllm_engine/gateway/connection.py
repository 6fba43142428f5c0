"""The client's side of the data path: uvicorn's connection with limits, and a direct lane for streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import httptools
from starlette.types import Scope
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from vllm_engine.errors import error_body
from vllm_engine.gateway.heads import MAX_HEADER_BYTES, HeadError, check_head, speaks_http, without_upgrade
from vllm_engine.gateway.identity import REQUEST_ID, request_id

LANE = "vllm_engine.lane"
"""Key in the scope's extensions under which the application finds its `Lane`."""


_MAX_UNSENT_BYTES = 65_536
"""What may wait in a connection for a client that does not read, before its stream is paused."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What one client connection may do, and how many there may be."""

    header_timeout_seconds: float
    max_connections: int


class StreamOwner(Protocol):
    """Whoever streams to this client: told when the client is slow or gone."""

    def pause(self) -> None:
        """Stop producing: the client does not read."""

    def resume(self) -> None:
        """Go on."""


class Lane(Protocol):
    """What the application may do on the client's connection beside ASGI."""

    is_gone: bool
    """The client has closed the connection."""
    on_gone: Callable[[], object] | None
    """Called once when that happens."""

    def open_stream(self) -> None:
        """Say, before the answer's head is sent, that what follows will come by the next three."""

    def write_first(self, data: bytes) -> None:
        """Write the head, which was held back until now, and the first chunk if there is one."""

    def write_chunk(self, data: bytes) -> None:
        """Write one chunk of an answer of open length, at once and without waiting."""

    def write_last(self, data: bytes) -> None:
        """Write the last chunk and the end; an empty body sent by ASGI must follow."""

    def set_stream(self, owner: StreamOwner | None) -> None:
        """Name who produces the stream; it is paused at once if the client is slow already."""

    def watch(self) -> None:
        """Go on reading once the request's body is whole, so that the client's leaving is seen."""

    def abort(self) -> None:
        """Cut the connection: the only way left to say that an answer is not whole."""


class _Head:
    """Stands in for the transport while uvicorn writes an answer's head, to write it with what follows."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data = data


class ClientConnection(HttpToolsProtocol):
    """One client connection.

    uvicorn's protocol has no limit on headers and no time limit for them, and its `send` costs a task
    switch for each chunk: these are added here. A client's leaving is reported at once.
    """

    limits = ConnectionLimits(header_timeout_seconds=30.0, max_connections=20_000)

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.is_gone = False
        self.on_gone: Callable[[], object] | None = None
        self._owner: StreamOwner | None = None
        self._answering: RequestResponseCycle | None = None
        self._without_chunks = False
        self._head = _Head()
        self._header_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._has_begun = False
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._offers_upgrade = False
        self._problem: HeadError | None = None
        self._is_refused = False
        self._last_words = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        # The event loop's own limit for plain connections; over TLS it is eight times that.
        transport.set_write_buffer_limits(high=_MAX_UNSENT_BYTES)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, f"Too many connections; MAX_CONNECTIONS={self.limits.max_connections}", b"1")
            return
        self._arm_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._disarm_header_timer()
        self._leave()
        self.pipeline.clear()
        super().connection_lost(exc)
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._unset_keepalive_if_required()
        if self._is_refused:
            return
        if self._in_head and not self._has_begun and not speaks_http(data):
            self._refuse(400, "This is no HTTP/1.1 request")
            return
        in_head = self._in_head
        if in_head:
            self._unparsed_bytes += len(data)
        self._feed(data)
        if in_head and self._in_head and self._unparsed_bytes > MAX_HEADER_BYTES:
            self._refuse(431, f"The request's headers exceed {MAX_HEADER_BYTES} bytes")

    def _feed(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                # The parser leaves the body out after an offered upgrade. None is accepted here, so the
                # request is read once more as if nothing had been offered (RFC 9110, section 7.8).
                head = without_upgrade(
                    self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
                )
                data = head + data[offer.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserError:
                problem, self._problem = self._problem, None
                if problem is not None:
                    self._refuse(problem.status, str(problem))
                else:
                    self._refuse(400, "Invalid HTTP request received.")
                return
            else:
                return

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._in_head = self._has_begun = True
        self._offers_upgrade = False
        self._head_bytes = 0
        if self._header_timer is None:
            self._arm_header_timer()

    def on_url(self, url: bytes) -> None:
        """Called by the parser, perhaps with a piece."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too: those come after the key was looked at and do not count."""
        if self._in_head:
            super().on_header(name, value)
            self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        try:
            check_head(self.parser.get_method(), self.parser.get_http_version(), self.headers)
        except HeadError as problem:
            self._problem = problem
            raise
        if self.parser.should_upgrade():
            self._offers_upgrade = True
            return
        self._in_head = self._has_begun = False
        self._unparsed_bytes = 0
        self._disarm_header_timer()
        super().on_headers_complete()
        # The application's task has been made but does not run before this returns.
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = {LANE: self}

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._offers_upgrade:
            return
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        """Called by uvicorn at an answer's end."""
        self._without_chunks = False
        super().on_response_complete()
        if self._last_words and not self._is_busy():
            self._say(self._last_words)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """Called by the transport."""
        super().pause_writing()
        if self._owner is not None:
            self._owner.pause()

    def resume_writing(self) -> None:
        """Called by the transport."""
        super().resume_writing()
        if self._owner is not None:
            self._owner.resume()

    def open_stream(self) -> None:
        """Say, before the answer's head is sent, that what follows will come by the next three."""
        cycle = self._answering
        assert cycle is not None  # noqa: S101 - its application is who calls
        self._head = cycle.transport = _Head()  # type: ignore[assignment]
        if cycle.scope["http_version"] == "1.0":
            # No chunks for HTTP/1.0 (RFC 9112, section 7.1): the body ends with the connection.
            self._without_chunks = True
            cycle.chunked_encoding = False

    def write_first(self, data: bytes) -> None:
        """Write the head, which was held back until now, and the first chunk if there is one."""
        cycle = self._answering
        assert cycle is not None  # noqa: S101 - its application is who calls
        cycle.transport = self.transport
        if not self.is_gone:
            self.transport.write(self._head.data + self._framed(data) if data else self._head.data)

    def write_chunk(self, data: bytes) -> None:
        """Write one chunk of an answer of open length, at once and without waiting."""
        if not self.is_gone:
            self.transport.write(self._framed(data))

    def write_last(self, data: bytes) -> None:
        """Write the last chunk and the end; an empty body sent by ASGI must follow."""
        cycle = self._answering
        if self.is_gone or cycle is None:
            return
        if self._without_chunks:
            self.transport.write(data)
            return
        self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        # It is written: nothing is left for uvicorn to say.
        cycle.chunked_encoding = False

    def _framed(self, data: bytes) -> bytes:
        return data if self._without_chunks else b"%x\r\n%b\r\n" % (len(data), data)

    def set_stream(self, owner: StreamOwner | None) -> None:
        """Name who produces the stream; it is paused at once if the client is slow already."""
        self._owner = owner
        if owner is not None and self.flow.write_paused:
            owner.pause()

    def watch(self) -> None:
        """Go on reading once the request's body is whole, so that the client's leaving is seen."""
        self.flow.resume_reading()

    def abort(self) -> None:
        """Cut the connection: the only way left to say that an answer is not whole."""
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        # uvicorn tells only the request that came last that nobody listens any more.
        self.is_gone = True
        cycle = self._answering
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEADER_BYTES:
            self._problem = HeadError(431, f"The request's headers exceed {MAX_HEADER_BYTES} bytes")
            raise self._problem

    def _is_busy(self) -> bool:
        """Whether an answer to an earlier request is under way, or to this one has begun."""
        cycle = self._answering
        if cycle is None or cycle.response_complete:
            return bool(self.pipeline)
        return cycle.response_started or cycle is not self.cycle

    def _refuse(self, status: int, message: str, retry_after: bytes | None = None) -> None:
        if self.transport.is_closing() or self._is_refused:
            return
        self._is_refused = True
        self._disarm_header_timer()
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()  # its body will never be whole
        answer = _refusal(status, message, retry_after)
        if self._is_busy():
            self._last_words = answer
        else:
            self._say(answer)

    def _say(self, answer: bytes) -> None:
        self.transport.write(answer)
        self._leave()
        self.transport.close()

    def _arm_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_timeout_seconds, self._headers_too_slow)

    def _disarm_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_too_slow(self) -> None:
        self._header_timer = None
        if self._has_begun or self._unparsed_bytes:
            self._refuse(408, "The request's headers did not arrive in time")
        else:
            self.transport.close()


def _refusal(status: int, message: str, retry_after: bytes | None) -> bytes:
    kind = "unavailable_error" if status == 503 else "BadRequestError"
    body = json.dumps(error_body(message, type=kind, code=status)).encode()
    lines = [
        STATUS_LINE[status] + b"content-type: application/json",
        b"content-length: %d" % len(body),
        REQUEST_ID + b": " + request_id(()),
        b"connection: close",
    ]
    if retry_after is not None:
        lines.append(b"retry-after: " + retry_after)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def connection_class(limits: ConnectionLimits) -> type[ClientConnection]:
    """Return a connection class with these limits; uvicorn takes a class, not an instance."""
    return type("LimitedConnection", (ClientConnection,), {"limits": limits})


def lane_of(scope: Scope) -> Lane:
    """Return the lane of a request that came through `ClientConnection`."""
    lane: Lane = scope["extensions"][LANE]
    return lane
