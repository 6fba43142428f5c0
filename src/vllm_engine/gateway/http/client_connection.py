"""A client's connection: uvicorn's, with bounds on all that a client may do."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from vllm_engine.gateway.error_dialect import ApiError, body_of
from vllm_engine.gateway.http.client_clocks import LingeringClose, PeerWatch, SendTimer
from vllm_engine.gateway.http.client_stream import CLIENT_STREAM, ClientStream
from vllm_engine.gateway.http.incoming import Incoming
from vllm_engine.gateway.http.peer_socket import forget_unsent
from vllm_engine.gateway.http.request_id import REQUEST_ID, request_id

_MAX_UNSENT_BYTES = 65_536
"""What may wait in a connection for a client that does not read, before its stream is paused."""
_PROBE_AFTER_SECONDS = 0.25
"""Responses that come this soon after their requests reach a half-closed client without a probe."""


class ClientConnection(Incoming):
    """One client connection; its requests are answered one after another."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, or refuse a connection too many."""
        super().connection_made(transport)
        self._is_half_closed = False
        self._lingering: LingeringClose | None = None
        # The event loop's own limit for plain connections; over TLS it is eight times that.
        transport.set_write_buffer_limits(high=_MAX_UNSENT_BYTES)
        self.stream = ClientStream(self, transport)
        self._extensions[CLIENT_STREAM] = self.stream
        self._send_timer = SendTimer(
            self.loop, transport, self._limits.send_timeout_seconds, self._cut_slow_reader
        )
        self._peer = PeerWatch(self.loop, transport, self._probe_client, self._cut)
        if self._server.count_of_connections > self._limits.max_connections:
            message = f"Too many connections; MAX_CONNECTIONS={self._limits.max_connections}"
            transport.write(_refusal(503, message, retry_after_seconds=1))
            self.stream.set_disconnected()
            self._is_finished = True
            # Nothing lingers here: that would be one connection more than there may be.
            transport.close()
            return
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that is being answered."""
        self._stop_head_timer()
        self._send_timer.stop()
        self._peer.stop()
        if self._lingering is not None:
            self._lingering.stop()
        self.stream.set_disconnected()
        self._drop_queued_requests()
        self._held = b""
        super().connection_lost(exc)
        self._stop_keep_alive_timer()
        self.stream.end_request()

    def data_received(self, data: bytes) -> None:
        """Parse, buffer or discard the data."""
        if self._lingering is not None:
            self._lingering.discard(len(data))
        elif self._is_finished:
            pass  # over TLS, while the last response is still being written
        elif self._held or self._has_to_wait():
            self._hold(data)
        else:
            self._take(data)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep a half-closed connection, and find out whether its client still reads."""
        if self._lingering is not None or self.scheme == "https" or not self._is_in_head:
            return False
        if not (self._is_answering or self._has_queued_request):
            return False
        self._is_half_closed = True
        # A FIN that comes with the request may be a script's (`nc -N`), a later one is likely a disconnect.
        self._peer.start(max(0.0, self._received_at + _PROBE_AFTER_SECONDS - self.loop.time()))
        return True

    def pause_writing(self) -> None:
        """Pause the stream of a client that does not keep up, and give it a limited time."""
        super().pause_writing()
        self.stream.pause_producer()
        self._send_timer.start()

    def resume_writing(self) -> None:
        """Go on with the stream."""
        super().resume_writing()
        self._send_timer.stop()
        self.stream.resume_producer()

    def on_response_complete(self) -> None:
        """Go on with what was pipelined during the response."""
        super().on_response_complete()
        self.stream.set_producer(None)
        if self.transport.get_write_buffer_size():
            self._send_timer.start()
        if self.transport.is_closing() or self._lingering is not None:
            self._stop_keep_alive_timer()
        elif not self._is_answering:
            self._go_on()

    def _go_on(self) -> None:
        if self._refusal:
            self._send_refusal(self._refusal)
            return
        if not self._is_half_closed:
            self._peer.stop()
        data, self._held = self._held, b""
        if self._has_partial_head or data:
            self._stop_keep_alive_timer()
        if (self._has_partial_head or data or not self._is_in_head) and self._head_timer is None:
            self._start_head_timer()
        if data:
            self.flow.hold(is_held=False)
            self._take(data)
        if self._is_half_closed and not self._has_to_wait() and self._lingering is None:
            self.transport.close()

    def shutdown(self) -> None:
        """Close the connection, or let it be closed after the response that is under way."""
        self.announce_close()
        if self._lingering is None and not (self._is_answering or self._has_queued_request):
            self.transport.close()

    def end_gracefully(self) -> None:
        """Close so that the last response is read."""
        self._is_finished = True
        self.stream.set_disconnected()
        self._drop_queued_requests()
        self._peer.stop()
        self._stop_head_timer()
        is_all_read = self._is_in_head and not self._held and not self.flow.read_paused
        if is_all_read or self._is_half_closed or self.transport.is_closing():
            self.transport.close()
            return
        self._held = b""
        if self._lingering is None:
            self._lingering = LingeringClose(self.loop, self.transport)
            self.flow.hold(is_held=False)

    def _cut_slow_reader(self) -> None:
        forget_unsent(self.transport)
        self._cut()

    def _cut(self) -> None:
        """Cut the connection, and end its request before that can take an incomplete body for a whole one."""
        self.stream.abort()
        self.stream.end_request()

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing() or self._lingering is not None or self._refusal:
            return
        self._stop_head_timer()
        self._drop_incomplete_request()
        answer = _refusal(status, message, self.url)
        if self._has_response_under_way:
            self._refusal = answer
        else:
            self._send_refusal(answer)

    def _send_refusal(self, answer: bytes) -> None:
        self._refusal = b""
        self.transport.write(answer)
        self._is_in_head = False  # what follows belongs to no request
        self.end_gracefully()
        self.stream.end_request()

    def _probe_client(self) -> bool:
        return self.scheme != "https" and self.stream.probe()

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self._is_in_head and (self._has_partial_head or self._framing_bytes):
            self._refuse(408, "The request's headers did not arrive in time")
        else:
            # Nothing has come, or the rest of a body whose response was sent long ago does not.
            self.transport.close()


def _refusal(
    status: int, message: str, target: bytes = b"", *, retry_after_seconds: int | None = None
) -> bytes:
    """Return a response to what never becomes a request; `target` as far as it is known."""
    identity = request_id(())
    path = target.partition(b"?")[0].decode("latin-1")
    body = body_of(ApiError.of(status, message), path, identity.decode())
    lines = [
        b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        REQUEST_ID + b": " + identity,
        b"connection: close",
    ]
    if retry_after_seconds is not None:
        lines.append(b"retry-after: %d" % retry_after_seconds)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
