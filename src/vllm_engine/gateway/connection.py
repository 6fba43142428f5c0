"""The client's side of the data path: uvicorn's connection with limits, and a direct lane for streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from vllm_engine.errors import error_body
from vllm_engine.gateway.identity import REQUEST_ID, request_id

LANE = "vllm_engine.lane"
"""Key in the scope's extensions under which the application finds its `Lane`."""

MAX_HEADER_BYTES = 65_536
"""Request line and headers together; vLLM's own limit (h11's) is the same."""


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

    def write_chunk(self, data: bytes) -> None:
        """Write one chunk of a started chunked answer, at once and without waiting."""

    def set_stream(self, owner: StreamOwner | None) -> None:
        """Name who produces the stream; it is paused at once if the client is slow already."""

    def watch(self) -> None:
        """Go on reading once the request's body is whole, so that the client's leaving is seen."""

    def abort(self) -> None:
        """Cut the connection: the only way left to say that an answer is not whole."""


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
        self._header_timer: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, f"Too many connections; MAX_CONNECTIONS={self.limits.max_connections}", b"1")
            return
        self._arm_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self._disarm_header_timer()
        self.is_gone = True
        super().connection_lost(exc)
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._in_headers:
            self._header_bytes += len(data)
            # A body that came with its headers may make this larger than the headers alone are.
            if self._header_bytes > MAX_HEADER_BYTES and b"\r\n\r\n" not in data[: MAX_HEADER_BYTES + 4]:
                self._refuse(431, f"Request headers exceed {MAX_HEADER_BYTES} bytes")
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self._in_headers = True
        self._header_bytes = 0
        if self._header_timer is None:
            self._arm_header_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too: those come after the key was looked at and do not count."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_headers = False
        self._disarm_header_timer()
        super().on_headers_complete()
        # The application's task has been made but does not run before this returns.
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = {LANE: self}

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

    def write_chunk(self, data: bytes) -> None:
        """Write one chunk of a started chunked answer, at once and without waiting."""
        if not self.is_gone:
            self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

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
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the one error shape."""
        self._refuse(400, msg)

    def _refuse(self, status: int, message: str, retry_after: bytes | None = None) -> None:
        if self.transport.is_closing():
            return
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
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()

    def _arm_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.limits.header_timeout_seconds, self._headers_too_slow)

    def _disarm_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_too_slow(self) -> None:
        self._header_timer = None
        if self._header_bytes:
            self._refuse(408, "The request's headers did not arrive in time")
        else:
            self.transport.close()


def connection_class(limits: ConnectionLimits) -> type[ClientConnection]:
    """Return a connection class with these limits; uvicorn takes a class, not an instance."""
    return type("LimitedConnection", (ClientConnection,), {"limits": limits})


def lane_of(scope: Scope) -> Lane:
    """Return the lane of a request that came through `ClientConnection`."""
    lane: Lane = scope["extensions"][LANE]
    return lane
