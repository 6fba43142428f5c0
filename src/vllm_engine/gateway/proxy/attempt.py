"""One request's attempts at the engine: repeated where that is safe, and after a restart of the engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from starlette.types import Send

from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.control_client import Health
from vllm_engine.engine.engine_control import EngineControl
from vllm_engine.engine.engine_state import EngineState, Frontend, StatusReader
from vllm_engine.gateway.answers import retry_after, send_error
from vllm_engine.gateway.body.body_fields import RequestFields
from vllm_engine.gateway.body.frontend_fields import CHAT
from vllm_engine.gateway.body.request_body import Body
from vllm_engine.gateway.error_dialect import ApiError
from vllm_engine.gateway.http.request_id import REQUEST_ID
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.policy.readiness import retry_after_seconds
from vllm_engine.gateway.proxy.engine_frontends import Frontends
from vllm_engine.gateway.proxy.failover import Recovery, Verdict
from vllm_engine.gateway.proxy.forwarded_headers import response_headers
from vllm_engine.gateway.proxy.frontend_choice import EMPTY, Asked
from vllm_engine.gateway.proxy.response_stream import ResponseStream
from vllm_engine.gateway.proxy.upstream_connection import UpstreamConnection, UpstreamError
from vllm_engine.gateway.rejection import Rejected

_T = TypeVar("_T")

logger = logging.getLogger("gateway.proxy")

_CONNECTIONS = 3
"""How many connections a request may use up at one and the same engine."""
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
"""RFC 9110, section 9.2.1: what may be asked twice without harm."""
_NO_CONTENT = b'"content":null'
"""As the Rust frontend writes it; inside a text the quotation marks would be escaped."""


@dataclass(frozen=True)
class Engine:
    """What every request needs of the engine."""

    frontends: Frontends
    status: StatusReader
    recovery: Recovery
    activity: EngineActivity
    control: EngineControl


@dataclass(frozen=True)
class EngineRequest:
    """A request as it is written to the engine."""

    method: str
    head: bytes
    body: Body
    fields: RequestFields
    headers: Iterable[tuple[bytes, bytes]] = ()
    """The client's, as it sent them."""


class Attempt:
    """Passes one request to the engine and its response to the client.

    Nothing has reached the client when a request is repeated, but for comments in an event stream.
    """

    def __init__(
        self, engine: Engine, stream: ResponseStream, send: Send, record: RequestRecord, keep_alive: float
    ) -> None:
        self._engine = engine
        self._stream = stream
        self._send = send
        self._record = record
        self._keep_alive = keep_alive if record.is_stream else 0.0
        self._identity = record.request_id.encode()
        self._is_open = False

    @property
    def stream(self) -> ResponseStream:
        """The response, as far as it has come."""
        return self._stream

    async def while_waiting(self, waiting: Awaitable[_T]) -> _T:
        """Wait for something; a stream's client gets comments if that takes long.

        It is awaited in the caller's own task: those who wait for one thing go on in their order.
        """
        opening = asyncio.create_task(self._open_later()) if self._keep_alive and not self._is_open else None
        try:
            return await waiting
        finally:
            if opening is not None and self._is_open:
                await opening
            elif opening is not None:
                opening.cancel()

    async def reject(self, rejected: Rejected) -> bool:
        """End an event stream that was opened while its request waited; False if there is none."""
        if not self._is_open:
            return False
        self._record.reject(self._record.status, rejected.reason)
        await self._stream.end_event_stream(ApiError.of(rejected.status, rejected.message))
        return True

    async def run(self, request: EngineRequest) -> None:
        """Pass the request and its response on.

        Raises:
            UpstreamError: the engine broke off a response that has begun and cannot carry an error event.
        """
        lost = 0
        while True:
            start = self._engine.status.current.starts
            error = await self._try(request, start)
            if error is None:
                return
            verdict = Verdict.LIVES if error.own_reason else await self._verdict(start)
            if verdict is not Verdict.LIVES and not error.is_unread:
                lost += 1
            error = self._stream.failure or error
            if lost == 2 and error.own_reason is None:
                await self._refuse_suspect()
                return
            if error.own_reason or verdict is not Verdict.RESTARTED:
                await self._refuse(error)
                return
            self._record.replays += 1
            logger.info("%s: the engine was lost; sent again to the restarted one", self._record.request_id)
            self._stream.reset()

    async def _try(self, request: EngineRequest, start: int) -> UpstreamError | None:
        """Ask the engine that runs now; returns why there is no response, or None once one was passed on."""
        error = await self._until_answered(request, start)
        if error is None:
            request.body.drop()
            await self._pass_on()
        return error

    async def _until_answered(self, request: EngineRequest, start: int) -> UpstreamError | None:
        """Wait for the answer that counts; nothing here may outlast it, lest the body stay in memory."""
        record, stream, frontends = self._record, self._stream, self._engine.frontends
        asked = Asked(record.route, record.key, request.headers, request.fields, request.body.data)
        choice = frontends.choose(asked)
        record.python_reason = choice.reason
        error = await self._answer_of(choice.frontend, request, start)
        refusal = await self._refusal() if choice.may_fall_back and error is None else None
        if refusal is not None:
            # The engine core has not seen it, or is done with it: it may be asked again.
            logger.debug("%s: %s by the Rust frontend; sent to the Python one", record.request_id, refusal)
            record.python_reason = refusal
            stream.reset()
            error = await self._answer_of(Frontend.PYTHON, request, start)
        if error is None:
            frontends.answered(asked, choice, refusal, is_accepted=stream.is_good)
        return error

    async def _refusal(self) -> str | None:
        """Return why the Rust frontend's answer is not to count; None if it is."""
        stream = self._stream
        if self._record.route != CHAT or stream.is_event_stream or not stream.is_good:
            return stream.refusal
        return EMPTY if _NO_CONTENT in await stream.until_whole() else None

    async def _answer_of(
        self, frontend: Frontend, request: EngineRequest, start: int
    ) -> UpstreamError | None:
        self._record.frontend = frontend
        return await self._ask(request, frontend) or await self._crash_response(start)

    async def _ask(self, request: EngineRequest, frontend: Frontend) -> UpstreamError | None:
        stream, upstream = self._stream, self._engine.frontends.upstream(frontend)
        for number in range(_CONNECTIONS):
            if stream.failure is not None:
                return stream.failure
            try:
                connection = await upstream.connect(fresh=number > 0)
                stream.attach(connection)
            except UpstreamError as error:
                return error
            is_head = request.method == "HEAD"
            connection.start(request.head, request.body.data, stream, is_head_request=is_head)
            await self._until_begun()
            if stream.error is None or stream.has_begun or not _may_repeat(request, connection, stream.error):
                break
        return None if stream.has_begun else stream.error

    async def _until_begun(self) -> None:
        """Wait for something to pass on; a client of an event stream gets its head if that takes long."""
        if self._keep_alive and not self._is_open:
            try:
                async with asyncio.timeout(self._keep_alive):
                    await self._stream.until_begun()
            except TimeoutError:
                await self._open()
        await self._stream.until_begun()

    async def _verdict(self, start: int) -> Verdict:
        """Find out whether the engine was lost; a stream's client gets comments if that takes long."""
        health = await self._engine.control.health()
        if health is Health.GOOD and self._runs(start):
            return Verdict.LIVES
        return await self.while_waiting(self._engine.recovery.after_failure(start))

    def _runs(self, start: int) -> bool:
        """Whether the engine of this start serves, as far as is known; a frontend may not know yet."""
        now = self._engine.status.current
        return now.starts == start and (now.is_ready or now.state is EngineState.DRAINING)

    async def _open_later(self) -> None:
        await asyncio.sleep(self._keep_alive)
        await self._open()

    async def _open(self) -> None:
        self._is_open = True
        await self._stream.open_event_stream((REQUEST_ID, self._identity))

    async def _crash_response(self, start: int) -> UpstreamError | None:
        """Return an error if the response is only the sign that the engine has crashed."""
        if not self._stream.may_be_crash_response:
            return None
        # While it reports an error, vLLM may not have noticed itself that its engine core has died.
        health = await self._engine.control.health()
        is_lost = health.is_lost or not self._runs(start)
        if not (is_lost or health.is_certain):
            is_lost = await self._engine.recovery.is_lost(start)
        return UpstreamError("the engine crashed with this request") if is_lost else None

    async def _pass_on(self) -> None:
        stream = self._stream
        if self._is_open:
            await stream.continue_event_stream()
            return
        assert stream.status is not None  # noqa: S101 - it has begun
        is_events = stream.is_event_stream
        self._record.is_stream |= is_events
        headers = response_headers(stream.status, stream.headers, self._identity, is_event_stream=is_events)
        await stream.pass_on(headers)

    async def _refuse_suspect(self) -> None:
        logger.warning("%s: the engine died twice with this request; not sent again", self._record.request_id)
        self._record.outcome = Outcome.UPSTREAM_BROKEN
        self._record.reason = "suspect_request"
        message = "The engine died twice while it worked on this request, so it is not tried again"
        await self._end(ApiError(500, "engine_crash", message))

    async def _refuse(self, error: UpstreamError) -> None:
        logger.warning("%s: %s", self._record.request_id, error)
        record, kind = self._record, "upstream_error"
        record.outcome = Outcome.UPSTREAM_BROKEN
        if error.own_reason is not None:
            record.outcome, record.reason = Outcome.REJECTED, error.own_reason
            kind = "unavailable_error"
        await self._end(ApiError(error.status, kind, error.client_message))

    async def _end(self, error: ApiError) -> None:
        if self._is_open:
            await self._stream.end_event_stream(error)
            return
        self._record.status = error.status
        seconds = retry_after_seconds(self._engine.status.current) if error.status == 503 else None
        await send_error(self._send, self._record, error, retry_after(seconds))


def _may_repeat(request: EngineRequest, connection: UpstreamConnection, error: UpstreamError) -> bool:
    """Whether the same engine may be asked once more, after nothing of a response has come.

    Only what it has certainly not begun with, or what is safe to repeat (RFC 9110, section 9.2.2). An idle
    connection that it was about to close when the request was written to it leaves the request unread.
    """
    if error.own_reason is not None:
        return False
    return error.is_unread or (connection.reused and request.method in _SAFE_METHODS)
