"""One response on its way from the engine to a client; a streamed chunk costs no task switch."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Send

from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.gateway.error_dialect import ApiError, event_of, read_error
from vllm_engine.gateway.http.chunk_framing import content_of
from vllm_engine.gateway.http.client_stream import ClientStream
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.observe.usage import UsageReader
from vllm_engine.gateway.proxy.request_work import EngineWork
from vllm_engine.gateway.proxy.upstream_connection import UpstreamConnection, UpstreamError

KEEP_ALIVE = b": keep-alive\n\n"
_EVENT_STREAM_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
_ERROR_EVENTS = (b'data: {"error"', b"event: error\n")
_MAX_HELD = 262_144
"""Bytes of a response that may wait here for the client before the engine's connection is paused."""


class ResponseStream:
    """Takes one response from an `UpstreamConnection`, at the pace of the client's `ClientStream`."""

    def __init__(
        self, client: ClientStream, send: Send, record: RequestRecord, activity: EngineActivity
    ) -> None:
        self._client = client
        self._send = send
        self._record = record
        self._work = EngineWork(activity if record.is_core_work else None)
        self._connection: UpstreamConnection | None = None
        self._was_given = False
        self._changed = asyncio.Event()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._ended = False
        self._live = False
        self._opened_early = False
        self._size_at_tick = 0
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_event_stream = False
        self.error: UpstreamError | None = None
        self.failure: UpstreamError | None = None
        """Why the gateway ended it, if it did; unlike `error` it outlasts every new attempt."""
        self.usage = UsageReader()

    @property
    def has_run(self) -> bool:
        """Whether the engine was given the request, and has not refused it (4xx, or 503 for want of room)."""
        refused = self.status is not None and (400 <= self.status < 500 or self.status == 503)
        return self._was_given and not refused

    @property
    def has_begun(self) -> bool:
        """Whether there is something to pass on: for an event stream its first event, else the status."""
        if self.status is None:
            return False
        # An engine that crashes cuts a stream that has a head and nothing else: that can be repeated.
        return self.status != 200 or not self.is_event_stream or bool(self._held) or self._ended

    @property
    def may_be_crash_response(self) -> bool:
        """Whether this may be how vLLM says that its engine core has died with the request.

        Its Python frontend answers 500 then, or ends the stream with an error event.
        """
        if self.status is None or self.status >= 500:
            return self.status not in (None, 501)
        return self._begins_with_error

    @property
    def refusal(self) -> str | None:
        """A word for why this is no answer that another frontend might not better; None if it is one.

        A 503 is none: it is about the moment, not the request.
        """
        status = self.status or 0
        if 400 <= status <= 501:
            return f"refused_{status}"
        return "refused_in_stream" if self._begins_with_error else None

    @property
    def is_good(self) -> bool:
        """Whether the answer that has begun is what was asked for."""
        return self.status is not None and self.status < 400 and not self._begins_with_error

    @property
    def _begins_with_error(self) -> bool:
        return self.is_event_stream and self._held[:1] != [] and self._held[0].startswith(_ERROR_EVENTS)

    def attach(self, connection: UpstreamConnection) -> None:
        """Take the response from this connection.

        Raises:
            UpstreamError: the gateway ended it while the connection was made.
        """
        if self.failure is not None:
            connection.abort()
            raise self.failure
        self._connection = connection
        self._was_given = True
        self.error = None
        self._work.begin(self._record.frontend or Frontend.PYTHON)

    # Called by the upstream connection.
    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:  # noqa: D102
        self.status, self.headers = status, headers
        self.is_event_stream = (b"content-type", b"text/event-stream") in (
            (name, value[:17]) for name, value in headers
        )
        self._work.responded(status, is_event_stream=self.is_event_stream)
        self._changed.set()

    def on_data(self, data: bytes, *, is_last: bool) -> None:  # noqa: D102
        record = self._record
        if record.first_byte is None:
            record.first_byte = time.monotonic()
        self._work.received(data)
        self.usage.feed(data)
        if self._live:
            write = self._client.write_last if is_last else self._client.write_chunk
            write(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _MAX_HELD:
            self.pause()
        self._changed.set()

    def on_event(self, chunk: bytes) -> None:  # noqa: D102
        work = self._work
        if not (self._live and work.shows_work):
            self.on_data(content_of(chunk), is_last=False)
            return
        work.seen.progress += 1
        self.usage.feed_event(chunk)
        self._client.write_event(chunk)

    def on_end(self) -> None:  # noqa: D102
        self._ended = True
        self._live = False  # a comment now would follow the last chunk
        self._connection = None
        self._work.end()
        self._changed.set()

    def on_broken(self, error: UpstreamError) -> None:  # noqa: D102
        self.error = error
        self._connection = None
        self._work.end()
        self._changed.set()

    # Called by the client's stream.
    def pause(self) -> None:
        """Stop reading from the engine: the client does not keep up."""
        if self._connection is not None:
            self._connection.pause()
            self._work.pause()

    def resume(self) -> None:
        """Read on."""
        if self._connection is not None:
            self._connection.resume()
            self._work.resume()

    def probe(self) -> None:
        """Send a comment, if the stream stands between two events, to see whether the client takes it."""
        is_open = self._opened_early or (self._live and self.is_event_stream)
        is_between = self.usage.end.endswith(_EVENT_ENDS) if self.usage.size else self._opened_early
        if is_open and is_between:
            self._client.write_chunk(KEEP_ALIVE)

    def abort(self) -> None:
        """Give up the engine's response; it stops generating."""
        self._live = False
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
            self._work.end()

    def fail(self, error: UpstreamError) -> None:
        """End the response as if the engine had broken off; the engine is asked nothing more."""
        self.failure = error
        self.abort()
        self.on_broken(error)

    def reset(self) -> None:
        """Forget a response of which nothing was passed on, to ask again."""
        self.abort()
        self.status, self.headers, self.is_event_stream, self.error = None, [], False, None
        self._held.clear()
        self._held_bytes = 0
        self._ended = False
        self.usage = UsageReader()
        self._record.first_byte = None
        self._size_at_tick = 0

    async def until_begun(self) -> None:
        """Wait until there is something to pass on or the connection has broken."""
        while not self.has_begun and self.error is None:
            await self._change()

    async def until_whole(self) -> bytes:
        """Wait for all of a response, or all that may be held, or its breaking off; return what has come."""
        while not self._ended and self.error is None and self._held_bytes <= _MAX_HELD:
            await self._change()
        return b"".join(self._held)

    async def pass_on(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the response: its status, these headers, and its body as it comes.

        Raises:
            UpstreamError: the engine broke off a body that cannot carry an error event.
        """
        assert self.status is not None  # noqa: S101 - until_begun has returned
        self._record.status = self.status
        has_length = any(name == b"content-length" for name, _ in headers)
        if not has_length:
            self._client.open_stream()
        await self._send({"type": "http.response.start", "status": self.status, "headers": headers})
        await (self._copy() if has_length else self._stream())

    async def open_event_stream(self, identity: tuple[bytes, bytes]) -> None:
        """Begin an event stream before there is an event, so that nobody gives up waiting."""
        self._record.status = 200
        self._opened_early = True
        headers = [*_EVENT_STREAM_HEAD, identity]
        self._client.open_stream()
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self._client.write_first(KEEP_ALIVE)
        self._client.set_producer(self)

    async def continue_event_stream(self) -> None:
        """Go on with a stream that `open_event_stream` began, whatever the engine has responded."""
        if self.error is None and self.status == 200:
            await self._stream()
            return
        # The status line has been sent already: the refusal becomes an event. One that is longer than may be
        # held is none that a client could read.
        await self.end_event_stream(read_error(self.status or 502, await self.until_whole()))

    async def end_event_stream(self, error: ApiError) -> None:
        """End a stream that `open_event_stream` began with an error as its one event."""
        self._opened_early = False
        await self._finish_stream(error)

    def tick(self) -> None:
        """Send a keep-alive comment if nothing was sent since the last tick; called by a timer."""
        size = self.usage.size
        if size == self._size_at_tick:
            self.probe()
        self._size_at_tick = size

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def _stream(self) -> None:
        # From here on `on_data` writes to the client itself.
        held = b"".join(self._held)
        if not self._opened_early:
            self._client.write_first(held)
        elif held:
            self._client.write_chunk(held)
        self._opened_early = False
        self._held.clear()
        self._held_bytes = 0
        self._live = True
        # What was held may have paused the engine; a client that is slow pauses it again at once.
        self.resume()
        self._client.set_producer(self)
        try:
            while not self._ended and self.error is None:
                await self._change()
        finally:
            self._live = False
            self._client.set_producer(None)
        if self.error is None:
            await self._send({"type": "http.response.body", "body": b""})
            return
        self._record.outcome = Outcome.UPSTREAM_BROKEN
        if not (self.is_event_stream or self._record.is_stream):
            raise self.error
        last = self.usage.end
        # An event that was cut short must be ended before ours can begin.
        gap = b"" if not last or last.endswith(b"\n\n") else b"\n" if last.endswith(b"\n") else b"\n\n"
        await self._finish_stream(ApiError(502, "upstream_error", self.error.client_message), gap)

    async def _finish_stream(self, error: ApiError, gap: bytes = b"") -> None:
        event = event_of(error, self._record.path, self._record.request_id, self.usage.tail)
        # No [DONE] follows: a client must be able to tell a broken stream from a whole one.
        self._client.write_chunk(gap + event)
        await self._send({"type": "http.response.body", "body": b""})

    async def _copy(self) -> None:
        while True:
            # Before the check of what has come: what comes while a slow client is waited for must wake us.
            self._changed.clear()
            pieces, self._held = self._held, []
            self._held_bytes = 0
            ended, error = self._ended, self.error
            if pieces or ended:
                self.resume()
                more = not ended
                await self._send({"type": "http.response.body", "body": b"".join(pieces), "more_body": more})
            if ended:
                return
            if error is not None:
                self._record.outcome = Outcome.UPSTREAM_BROKEN
                raise error
            await self._changed.wait()
