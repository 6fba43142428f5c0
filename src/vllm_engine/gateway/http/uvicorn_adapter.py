"""All that the gateway uses of uvicorn's internals: its connection protocol, its requests and its server.

None of it is documented, so pyproject.toml caps uvicorn's version. No other module imports uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Generator
from typing import Any, Literal

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from vllm_engine.gateway.http.request_head import HeadError, body_bytes, check_head, without_upgrade

_LAST_RESPONSES_SECONDS = 5
_SMALL_BODY_BYTES = 65_536
"""A body up to this size is read to its end when its response came early, to keep the connection."""


class HoldingFlow(FlowControl):
    """Flow control that can be held."""

    is_held = False

    def hold(self, *, is_held: bool = True) -> None:
        """Stop reading, also where uvicorn would resume, until it is let go again."""
        self.is_held = is_held
        if is_held:
            self.pause_reading()
        else:
            self.resume_reading()

    def resume_reading(self) -> None:
        """Go on reading, unless held."""
        if not self.is_held:
            super().resume_reading()


class _HeadHolder:
    """Stands in for the transport while uvicorn writes a response's head, to send it with what follows."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data = data


class _ResponseTransport:
    """The transport as a response sees it: to close it is to end the connection gracefully."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = end


class UvicornConnection(HttpToolsProtocol):
    """uvicorn's side of one client connection; a subclass decides what it may do.

    The request that is answered now is not always the last that came: pipelined ones wait in a queue. Of
    uvicorn's own attributes subclasses use `flow`, `headers`, `loop`, `scheme`, `transport` and `url` alone.
    """

    flow: HoldingFlow

    def __init__(self, server: UvicornServer) -> None:
        super().__init__(server.config, server.server_state, server.lifespan.state)
        self._server = server
        self._extensions: dict[str, Any] = {}
        """Of every request's ASGI scope."""
        self._is_in_head = True
        """Whether what comes next belongs to a head: a request's that has begun, or the next one's."""
        self._answered: RequestResponseCycle | None = None
        self._held_head: _HeadHolder | None = None
        self._offers_upgrade = False
        self._body_left = 0
        self._keeps_alive = True
        self._head_error: HeadError | None = None
        self.url = b""

    def end_gracefully(self) -> None:
        """Close the connection so that its last response is read."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # noqa: D102
        super().connection_made(transport)
        self.flow = HoldingFlow(transport)
        self._response_transport = _ResponseTransport(transport, self.end_gracefully)

    def announce_close(self) -> None:
        """Let the response that is under way, if there is one, say that it is the connection's last."""
        self._keeps_alive = False
        for cycle in (self.cycle, self._answered):
            if cycle is not None:
                cycle.keep_alive = False

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse what has come.

        Raises:
            HeadError: it is not valid HTTP, or a head that is refused.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                # The parser leaves the body out after an offered upgrade. None is accepted here, so the
                # request is read once more as if nothing had been offered (RFC 9110, section 7.8).
                method, version = self.parser.get_method(), self.parser.get_http_version()
                head = without_upgrade(method, self.url, version, self.headers)
                data = head + bytes(data[offer.args[0] :])
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            except httptools.HttpParserError as error:
                refused, self._head_error = self._head_error, None
                raise refused or HeadError(400, "Invalid HTTP request") from error
            else:
                return

    def on_message_begin(self) -> None:
        """Take a new request; the parser calls this and the three methods below."""
        super().on_message_begin()
        self._offers_upgrade = False
        self._is_in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; not a trailer, as those come after the key was checked."""
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head and have the request answered."""
        try:
            check_head(self.parser.get_method(), self.parser.get_http_version(), self.headers)
        except HeadError as error:
            self._head_error = error
            raise
        if self.parser.should_upgrade():
            self._offers_upgrade = True
            return
        self._is_in_head = False
        super().on_headers_complete()
        cycle = self.cycle
        cycle.transport = self._response_transport  # type: ignore[assignment]
        self._keeps_alive = cycle.keep_alive and not self._server.is_closing
        length = body_bytes(self.headers)
        self._body_left = length or 0
        # A response that comes before the rest of a large body says that the connection ends with it.
        is_small = length is not None and length <= _SMALL_BODY_BYTES and not self.expect_100_continue
        cycle.keep_alive = self._keeps_alive and is_small
        # The application's task has been made but does not run before this returns.
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = self._extensions

    def on_message_complete(self) -> None:
        """End a request, unless it is to be read once more."""
        if self._offers_upgrade:
            return
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps_alive
        super().on_message_complete()
        self._is_in_head = True

    def _stop_keep_alive_timer(self) -> None:
        self._unset_keepalive_if_required()

    @property
    def _has_queued_request(self) -> bool:
        return bool(self.pipeline)

    def _drop_queued_requests(self) -> None:
        self.pipeline.clear()

    def _drop_incomplete_request(self) -> None:
        """Forget the last request, if it waits and its body will never be whole."""
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()

    @property
    def _is_answering(self) -> bool:
        return self._answered is not None and not self._answered.response_complete

    @property
    def _has_response_under_way(self) -> bool:
        """Whether an earlier request is being answered, or the response to the last one has begun."""
        cycle = self._answered
        if cycle is None or cycle.response_complete:
            return bool(self.pipeline)
        return cycle.response_started or cycle is not self.cycle

    @property
    def has_response_begun(self) -> bool:
        """Whether the response to the request that is answered has begun, or there is none to answer."""
        cycle = self._answered
        return cycle is None or cycle.response_complete or cycle.response_started

    @property
    def has_whole_body(self) -> bool:
        """Whether all of the body of the request that is answered is here."""
        return self._answered is not None and not self._answered.more_body

    @property
    def is_http_1_0(self) -> bool:
        """Whether the client of the request that is answered speaks HTTP/1.0."""
        return self._answered is not None and self._answered.scope["http_version"] == "1.0"

    def disconnect_application(self) -> None:
        """Tell the application that the client has disconnected, and end its wait for a body."""
        # uvicorn tells only the request that came last.
        cycle = self._answered
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()

    def hold_head(self, *, is_chunked: bool) -> None:
        """Hold back the response's head, which is sent next, until `take_head`."""
        cycle = self._answered
        assert cycle is not None  # noqa: S101 - called by its application
        self._held_head = cycle.transport = _HeadHolder()  # type: ignore[assignment]
        if not is_chunked:
            cycle.chunked_encoding = False

    def take_head(self) -> bytes:
        """Return the head that was held back; what is sent from now on goes to the client."""
        cycle, head = self._answered, self._held_head
        assert cycle is not None and head is not None  # noqa: S101 - called by its application
        self._held_head = None
        cycle.transport = self._response_transport  # type: ignore[assignment]
        return head.data

    def leave_end_out(self) -> None:
        """Have uvicorn write nothing at the end: the last chunk has been written."""
        if self._answered is not None:
            self._answered.chunked_encoding = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)


class UvicornServer(uvicorn.Server):
    """uvicorn's server, which leaves signals and new connections to others."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keep_alive_seconds: float,
        tls: ssl.SSLContext | None,
        lifespan: Literal["on", "off"],
    ) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan=lifespan,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # Given, so that WEB_CONCURRENCY and FORWARDED_ALLOW_IPS of the environment are not read.
            workers=1,
            forwarded_allow_ips="127.0.0.1",
            timeout_keep_alive=keep_alive_seconds,  # type: ignore[arg-type]  # it is given to call_later
            timeout_graceful_shutdown=_LAST_RESPONSES_SECONDS,
            ssl_context_factory=(lambda *_: tls) if tls else None,
        )
        super().__init__(config)
        self.is_closing = False
        """Whether each connection is closed after its next response."""

    @property
    def count_of_connections(self) -> int:
        """How many connections are open."""
        return len(self.server_state.connections)

    @property
    def connections(self) -> tuple[UvicornConnection, ...]:
        """The connections that are open."""
        return tuple(one for one in self.server_state.connections if isinstance(one, UvicornConnection))

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone: uvicorn would refuse connections at the first SIGTERM."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
        """Start the application; a subclass accepts connections then."""
        await super().startup(sockets=[])
