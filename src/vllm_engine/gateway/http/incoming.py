"""What comes from a client, given to uvicorn's parser within bounds.

The parser itself has none: it keeps headers and trailers of any length, skips chunk extensions of any length,
and makes a request of everything that a read brings.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from vllm_engine.gateway.http.client_stream import CLIENT_STREAM, HttpClientStream
from vllm_engine.gateway.http.peer_socket import PeerWatch
from vllm_engine.gateway.http.request_head import (
    MAX_HEADER_BYTES,
    HeadError,
    body_bytes,
    check_head,
    speaks_http,
    without_upgrade,
)

_MAX_HELD_BYTES = 65_536
"""What may wait behind a request that is being answered, before reading stops; one read more at most."""
_PIECE_BYTES = 4096
"""The parser gets no more at once, as it cannot be stopped: of pipelined requests only so much is parsed."""
_SMALL_REST_BYTES = 65_536
"""A body whose answer came early is read to its end, for the connection's sake, up to this size."""
_FRAMING_PER_BYTE = 8
"""How much chunk framing may come with each byte of a body: five are needed for chunks of one byte."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What one client connection may do, and how many there may be."""

    header_timeout_seconds: float
    send_timeout_seconds: float
    max_connections: int


class ConnectionsState(ServerState):
    """What all connections of one server share."""

    def __init__(self, limits: ConnectionLimits) -> None:
        super().__init__()
        self.limits = limits
        self.is_leaving = False
        """Each connection is closed after its next answer."""


class HoldingFlow(FlowControl):
    """Reads no more while enough is held, whoever asks for more."""

    is_held = False

    def hold(self) -> None:
        """Stop reading until `let_go`."""
        self.is_held = True
        self.pause_reading()

    def let_go(self) -> None:
        """Go on reading."""
        self.is_held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Go on reading, unless that is to wait."""
        if not self.is_held:
            super().resume_reading()


class Incoming(HttpToolsProtocol):
    """The receiving half of a connection: requests are taken one by one, as they are answered."""

    server_state: ConnectionsState
    flow: HoldingFlow
    lane: HttpClientStream
    _peer: PeerWatch

    def __init__(
        self,
        config: Config,
        server_state: ConnectionsState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._request_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._has_begun = False
        self._framing = 0
        self._body_left = 0
        self._whole_at = 0.0
        self._keeps_alive = True
        self._offers_upgrade = False
        self.url = b""
        self._problem: HeadError | None = None
        self._held = b""
        self._last_words = b""
        self._is_over = False

    def _refuse(self, status: int, message: str) -> None:
        raise NotImplementedError

    def _request_too_slow(self) -> None:
        raise NotImplementedError

    # What comes.
    def _has_to_wait(self) -> bool:
        """Whether what comes now stands behind a whole request that is being answered."""
        if self._last_words:
            return True
        return self._in_head and (self.lane.is_answering or bool(self.pipeline))

    def _hold(self, data: bytes) -> None:
        if not self._has_begun and not self._held:
            data = data.lstrip(b"\r\n")  # before a request they mean nothing (RFC 9112, section 2.2)
            if not data:
                return
        self._held += data
        self._disarm_request_timer()
        if len(self._held) > _MAX_HELD_BYTES:
            self.flow.hold()
            # What is not read does not say that the client has left.
            self._peer.start(0.0)

    def _take(self, data: bytes) -> None:
        if self._in_head and not self._has_begun and not speaks_http(data):
            self._refuse(400, "This is no HTTP/1.1 request")
            return
        if len(data) <= _PIECE_BYTES:
            self._feed(data)
            return
        view, start = memoryview(data), 0
        while start < len(data) and not self._is_over:
            if self._has_to_wait():
                self._hold(data[start:])
                return
            end = start + max(_PIECE_BYTES, self._body_left)
            self._feed(view[start:end])
            start = end

    def _feed(self, data: bytes | memoryview) -> None:
        self._framing += len(data)
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                # The parser leaves the body out after an offered upgrade. None is accepted here, so the
                # request is read once more as if nothing had been offered (RFC 9110, section 7.8).
                head = without_upgrade(
                    self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
                )
                data = head + bytes(data[offer.args[0] :])
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
                break
        if self._framing > MAX_HEADER_BYTES:
            part = "headers" if self._in_head else "trailers or chunk framing"
            self._refuse(431, f"The request's {part} exceed {MAX_HEADER_BYTES} bytes")

    # Called by the parser.
    def on_message_begin(self) -> None:  # noqa: D102
        super().on_message_begin()
        self._unset_keepalive_if_required()
        self._in_head = self._has_begun = True
        self._offers_upgrade = False
        if self._request_timer is None:
            self._arm_request_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; not a trailer, as those come after the key was looked at."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:  # noqa: D102
        try:
            check_head(self.parser.get_method(), self.parser.get_http_version(), self.headers)
        except HeadError as problem:
            self._problem = problem
            raise
        if self.parser.should_upgrade():
            self._offers_upgrade = True
            return
        self._in_head = self._has_begun = False
        self._disarm_request_timer()
        super().on_headers_complete()
        cycle, length = self.cycle, body_bytes(self.headers)
        self._body_left = length or 0
        self._keeps_alive = cycle.keep_alive and not self.server_state.is_leaving
        # An answer that comes before the body is whole says that the connection ends with it.
        is_small = length is not None and length <= _SMALL_REST_BYTES and not self.expect_100_continue
        cycle.keep_alive = self._keeps_alive and is_small
        self.lane.take(cycle)
        # The application's task has been made but does not run before this returns.
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = {CLIENT_STREAM: self.lane}

    def on_body(self, body: bytes) -> None:  # noqa: D102
        self._body_left -= len(body)
        self._framing = max(0, self._framing - (1 + _FRAMING_PER_BYTE) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:  # noqa: D102
        if self._offers_upgrade:
            return
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps_alive
        super().on_message_complete()
        self._disarm_request_timer()
        self._in_head = True
        self._framing = self._body_left = 0
        self._whole_at = self.loop.time()

    # The clock for it.
    def _arm_request_timer(self) -> None:
        seconds = self.server_state.limits.header_timeout_seconds
        self._request_timer = self.loop.call_later(seconds, self._request_too_slow)

    def _disarm_request_timer(self) -> None:
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None
