"""What the application may do on its client's connection beside ASGI: write at once, hear of a disconnect.

ASGI's `send` costs a task switch for each chunk, and its `receive` tells only a task that waits for it that
the client has disconnected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.types import Scope

from vllm_engine.gateway.http.chunk_framing import chunk_of, content_of
from vllm_engine.gateway.http.uvicorn_adapter import UvicornConnection

CLIENT_STREAM = "vllm_engine.client_stream"
"""Key in the scope's extensions under which the application finds its `ClientStream`."""


class Producer(Protocol):
    """Produces a stream for a client: told when the client is slow, asked when it may have disconnected."""

    def pause(self) -> None:
        """Produce nothing: the client does not read."""

    def resume(self) -> None:
        """Go on."""

    def probe(self) -> None:
        """Write something that clients ignore, where that is possible, to see whether the client is there."""


class ClientStream:
    """The application's view of one connection, whose requests are answered one after another."""

    __slots__ = (
        "_connection", "_has_slow_client", "_is_chunked", "_producer", "_transport",
        "is_disconnected", "on_disconnect",
    )  # fmt: skip

    def __init__(self, connection: UvicornConnection, transport: asyncio.Transport) -> None:
        self.is_disconnected = False
        """The client has closed the connection, or it is as good as closed."""
        self.on_disconnect: Callable[[], object] | None = None
        """Called once when that happens."""
        self._connection = connection
        self._transport = transport
        self._producer: Producer | None = None
        self._is_chunked = True
        self._has_slow_client = False

    # For the application.
    @property
    def has_whole_body(self) -> bool:
        """Whether all of the request's body is here already, so that reading it waits for nothing."""
        return self._connection.has_whole_body

    def watch_for_disconnect(self) -> None:
        """Go on reading after the request's body, so that a disconnect is noticed."""
        self._connection.flow.resume_reading()

    def open_stream(self) -> None:
        """Announce, before the response's head is sent, that its body is written by `write_…`."""
        # No chunks for HTTP/1.0 (RFC 9112, section 7.1): the body ends with the connection.
        self._is_chunked = not self._connection.is_http_1_0
        self._connection.hold_head(is_chunked=self._is_chunked)

    def write_first(self, data: bytes) -> None:
        """Write the head, which was held back until now, and the first chunk if there is one."""
        head = self._connection.take_head()
        if not self.is_disconnected:
            self._transport.write(head + (chunk_of(data) if self._is_chunked and data else data))

    def write_chunk(self, data: bytes) -> None:
        """Write one chunk at once, without waiting."""
        if not self.is_disconnected:
            self._transport.write(chunk_of(data) if self._is_chunked else data)

    def write_event(self, chunk: bytes) -> None:
        """Write an event that is a chunk already."""
        if not self.is_disconnected:
            self._transport.write(chunk if self._is_chunked else content_of(chunk))

    def write_last(self, data: bytes) -> None:
        """Write the last chunk and the end; an empty body sent by ASGI must follow."""
        if self.is_disconnected:
            return
        if not self._is_chunked:
            self._transport.write(data)
            return
        self._transport.write(chunk_of(data) + b"0\r\n\r\n")
        self._connection.leave_end_out()

    def set_producer(self, producer: Producer | None) -> None:
        """Name who produces the stream; it is paused at once if the client is slow already."""
        self._producer = producer
        if producer is not None and self._has_slow_client:
            producer.pause()

    def abort(self) -> None:
        """Cut the connection: the only way left to say that a response is incomplete."""
        self.set_disconnected()
        self._transport.abort()

    # For the connection.
    def pause_producer(self) -> None:
        """Say that the client does not keep up."""
        self._has_slow_client = True
        if self._producer is not None:
            self._producer.pause()

    def resume_producer(self) -> None:
        """Say that the client keeps up again."""
        self._has_slow_client = False
        if self._producer is not None:
            self._producer.resume()

    def probe(self) -> bool:
        """Write something to a client that may have disconnected; False where nothing may be written.

        Before a response has begun that is an interim one, which every client of HTTP/1.1 must be able to
        skip and none of HTTP/1.0 gets (RFC 9110, section 15.2); in an event stream a comment.
        """
        if self._connection.has_response_begun:
            if self._producer is not None:
                self._producer.probe()
            return True
        if self._connection.is_http_1_0:
            return False
        self._transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        return True

    def set_disconnected(self) -> None:
        """Write nothing more, and let the application wait for no body."""
        self.is_disconnected = True
        self._connection.disconnect_application()

    def end_request(self) -> None:
        """Tell the application that the client has disconnected."""
        self.set_disconnected()
        callback, self.on_disconnect = self.on_disconnect, None
        if callback is not None:
            callback()


def client_stream_of(scope: Scope) -> ClientStream:
    """Return the stream of a request that came through `ClientConnection`."""
    stream: ClientStream = scope["extensions"][CLIENT_STREAM]
    return stream
