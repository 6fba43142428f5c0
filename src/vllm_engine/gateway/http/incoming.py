"""The receiving half of a client's connection, within bounds.

The parser itself has none: it keeps headers and trailers of any length, skips chunk extensions of any length,
and makes a request of everything that a read brings.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from vllm_engine.gateway.http.client_clocks import PeerWatch
from vllm_engine.gateway.http.request_head import MAX_HEADER_BYTES, HeadError, speaks_http
from vllm_engine.gateway.http.uvicorn_adapter import UvicornConnection, UvicornServer

_MAX_HELD_BYTES = 65_536
"""What may wait behind a request that is being answered before reading stops; plus one read at most."""
_PIECE_BYTES = 4096
"""The parser gets no more at once, as it cannot be stopped: of pipelined requests only so much is parsed."""
_FRAMING_PER_BYTE = 8
"""How much chunk framing may come with each byte of a body: five are needed for chunks of one byte."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What one client connection may do, and how many there may be."""

    header_timeout_seconds: float
    send_timeout_seconds: float
    max_connections: int


class Incoming(UvicornConnection):
    """Takes a client's requests one by one, as they are answered."""

    _peer: PeerWatch

    def __init__(self, server: UvicornServer, limits: ConnectionLimits) -> None:
        super().__init__(server)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._has_partial_head = False
        self._framing_bytes = 0
        self._received_at = 0.0
        self._held = b""
        self._refusal = b""
        """The error response to a malformed pipelined request; sent once the current response is complete."""
        self._is_finished = False

    def _refuse(self, status: int, message: str) -> None:
        raise NotImplementedError

    def _head_timed_out(self) -> None:
        raise NotImplementedError

    def _has_to_wait(self) -> bool:
        """Whether what arrives now is pipelined behind a complete request that is still being answered."""
        if self._refusal:
            return True
        return self._is_in_head and (self._is_answering or self._has_queued_request)

    def _hold(self, data: bytes) -> None:
        if not self._has_partial_head and not self._held:
            data = data.lstrip(b"\r\n")  # before a request they mean nothing (RFC 9112, section 2.2)
            if not data:
                return
        self._held += data
        self._stop_head_timer()
        if len(self._held) > _MAX_HELD_BYTES:
            self.flow.hold()
            # While nothing is read, nothing says that the client has disconnected.
            self._peer.start(0.0)

    def _take(self, data: bytes) -> None:
        if self._is_in_head and not self._has_partial_head and not speaks_http(data):
            self._refuse(400, "Not a valid HTTP/1.1 request; expected a request line that ends with HTTP/1.1")
            return
        if len(data) <= _PIECE_BYTES:
            self._parse(data)
            return
        view, start = memoryview(data), 0
        while start < len(data) and not self._is_finished:
            if self._has_to_wait():
                self._hold(data[start:])
                return
            end = start + max(_PIECE_BYTES, self._body_left)
            self._parse(view[start:end])
            start = end

    def _parse(self, data: bytes | memoryview) -> None:
        self._framing_bytes += len(data)
        try:
            self._feed(data)
        except HeadError as error:
            self._refuse(error.status, str(error))
            return
        if self._framing_bytes > MAX_HEADER_BYTES:
            part = "headers" if self._is_in_head else "trailers or chunk framing"
            self._refuse(431, f"The request's {part} exceed {MAX_HEADER_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Give the head its time."""
        super().on_message_begin()
        self._stop_keep_alive_timer()
        self._has_partial_head = True
        if self._head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        """Expect the body."""
        super().on_headers_complete()
        if not self._is_in_head:
            self._has_partial_head = False
            self._stop_head_timer()

    def on_body(self, body: bytes) -> None:
        """Credit the body's bytes against the limit on chunk framing."""
        self._body_left -= len(body)
        self._framing_bytes = max(0, self._framing_bytes - (1 + _FRAMING_PER_BYTE) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the next request."""
        super().on_message_complete()
        if not self._offers_upgrade:
            self._stop_head_timer()
            self._framing_bytes = self._body_left = 0
            self._received_at = self.loop.time()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self._limits.header_timeout_seconds, self._head_timed_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
