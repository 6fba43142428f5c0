"""What the application may do on its client's connection beside ASGI: write at once, hear of a leaving.

ASGI's `send` costs a task switch for each chunk, and its `receive` tells of a leaving only who waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

CLIENT_STREAM = "vllm_engine.lane"
"""Key in the scope's extensions under which the application finds its `ClientStream`."""


class StreamOwner(Protocol):
    """Whoever streams to this client: told when the client is slow, asked when it may be gone."""

    def pause(self) -> None:
        """Stop producing: the client does not read."""

    def resume(self) -> None:
        """Go on."""

    def probe(self) -> None:
        """Write something that means nothing, where that is possible, to see whether it is taken."""


class ClientStream(Protocol):
    """What the application may do on the client's connection beside ASGI."""

    is_gone: bool
    """The client has closed the connection, or it is as good as closed."""
    on_gone: Callable[[], object] | None
    """Called once when that happens."""

    @property
    def is_whole(self) -> bool:
        """Whether all of the request's body is here already, so that reading it waits for nobody."""

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


def client_stream_of(scope: Scope) -> ClientStream:
    """Return the lane of a request that came through `ClientConnection`."""
    lane: ClientStream = scope["extensions"][CLIENT_STREAM]
    return lane


class _Head:
    """Stands in for the transport while uvicorn writes an answer's head, to write it with what follows."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data = data


class AnswerTransport:
    """The transport as an answer sees it: to close it is to end the connection in good order."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = end


class HttpClientStream:
    """The lane of one connection, whose requests are answered one after another."""

    __slots__ = (
        "_answers",
        "_has_slow_client",
        "_head",
        "_owner",
        "_transport",
        "_watch",
        "_without_chunks",
        "cycle",
        "is_gone",
        "on_gone",
    )

    def __init__(
        self, transport: asyncio.Transport, end: Callable[[], None], watch: Callable[[], None]
    ) -> None:
        """Make the lane.

        Args:
            transport: the connection's.
            end: ends the connection in good order, once its last answer is written.
            watch: goes on reading.
        """
        self.is_gone = False
        self.on_gone: Callable[[], object] | None = None
        self.cycle: RequestResponseCycle | None = None
        """The request that is being answered, or was last."""
        self._transport = transport
        self._answers = AnswerTransport(transport, end)
        self._watch = watch
        self._head: _Head | None = None
        self._owner: StreamOwner | None = None
        self._without_chunks = False
        self._has_slow_client = False

    # Called by the connection.
    def begin(self, cycle: RequestResponseCycle) -> None:
        """Begin to answer this request."""
        self.cycle = cycle
        self._without_chunks = False

    def take(self, cycle: RequestResponseCycle) -> None:
        """Let a request that has come write its answer through here."""
        cycle.transport = self._answers  # type: ignore[assignment]

    @property
    def is_answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_whole(self) -> bool:
        """Whether all of the request's body is here already, so that reading it waits for nobody."""
        return self.cycle is not None and not self.cycle.more_body

    def slow_down(self) -> None:
        """Say that the client does not keep up."""
        self._has_slow_client = True
        if self._owner is not None:
            self._owner.pause()

    def speed_up(self) -> None:
        """Say that it does again."""
        self._has_slow_client = False
        if self._owner is not None:
            self._owner.resume()

    def probe(self) -> bool:
        """Write something to a client that may be gone; False where nothing may be written.

        Before an answer has begun that is an interim one, which every client of HTTP/1.1 must be able to
        skip and none of HTTP/1.0 gets (RFC 9110, section 15.2); in an event stream a comment.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.response_started:
            if self._owner is not None:
                self._owner.probe()
            return True
        if cycle.scope["http_version"] == "1.0":
            return False
        self._transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        return True

    def leave(self) -> None:
        """Mark the client as gone: nothing more is written, and who waits for its body need not."""
        # uvicorn tells only the request that came last that nobody listens any more.
        self.is_gone = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()

    def tell_gone(self) -> None:
        """End the request that is being answered."""
        self.leave()
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    # Called by the application.
    def open_stream(self) -> None:
        """Say, before the answer's head is sent, that what follows will come by the next three."""
        cycle = self.cycle
        assert cycle is not None  # noqa: S101 - its application is who calls
        self._head = cycle.transport = _Head()  # type: ignore[assignment]
        if cycle.scope["http_version"] == "1.0":
            # No chunks for HTTP/1.0 (RFC 9112, section 7.1): the body ends with the connection.
            self._without_chunks = True
            cycle.chunked_encoding = False

    def write_first(self, data: bytes) -> None:
        """Write the head, which was held back until now, and the first chunk if there is one."""
        cycle, head = self.cycle, self._head
        assert cycle is not None and head is not None  # noqa: S101 - its application is who calls
        self.take(cycle)
        self._head = None
        if not self.is_gone:
            self._transport.write(head.data + self._framed(data) if data else head.data)

    def write_chunk(self, data: bytes) -> None:
        """Write one chunk of an answer of open length, at once and without waiting."""
        if not self.is_gone:
            self._transport.write(self._framed(data))

    def write_last(self, data: bytes) -> None:
        """Write the last chunk and the end; an empty body sent by ASGI must follow."""
        cycle = self.cycle
        if self.is_gone or cycle is None:
            return
        if self._without_chunks:
            self._transport.write(data)
            return
        self._transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        # It is written: nothing is left for uvicorn to say.
        cycle.chunked_encoding = False

    def _framed(self, data: bytes) -> bytes:
        return data if self._without_chunks else b"%x\r\n%b\r\n" % (len(data), data)

    def set_stream(self, owner: StreamOwner | None) -> None:
        """Name who produces the stream; it is paused at once if the client is slow already."""
        self._owner = owner
        if owner is not None and self._has_slow_client:
            owner.pause()

    def watch(self) -> None:
        """Go on reading once the request's body is whole, so that the client's leaving is seen."""
        self._watch()

    def abort(self) -> None:
        """Cut the connection: the only way left to say that an answer is not whole."""
        self.leave()
        self._transport.abort()
