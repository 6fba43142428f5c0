"""The data path: one request to the engine, one response back, byte for byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import Scope, Send

from vllm_engine.gateway.body.body_fields import RequestFields
from vllm_engine.gateway.body.request_body import Body
from vllm_engine.gateway.http.client_stream import client_stream_of
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.proxy.attempt import Attempt, Engine, EngineRequest
from vllm_engine.gateway.proxy.forwarded_headers import request_head
from vllm_engine.gateway.proxy.response_stream import ResponseStream
from vllm_engine.gateway.proxy.upstream_connection import UpstreamError


@dataclass(frozen=True)
class ForwardedRequest:
    """What the stages before the proxy have settled about one request."""

    record: RequestRecord
    target: bytes
    body: Body
    fields: RequestFields
    without: frozenset[bytes] = frozenset()
    """Names of headers that the engine does not get."""
    extra: tuple[tuple[bytes, bytes], ...] = ()
    """Headers that replace the client's."""


class Proxy:
    """Passes admitted requests to the engine."""

    def __init__(self, engine: Engine, *, keep_alive_seconds: float) -> None:
        self._engine = engine
        self._keep_alive = keep_alive_seconds
        self._streams: set[ResponseStream] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._end: UpstreamError | None = None

    def start(self) -> None:
        """Begin to send keep-alive comments; needs a running event loop."""
        if self._keep_alive:
            self._ticker = asyncio.create_task(self._tick())

    def stop(self) -> None:
        """Close idle connections and send no more comments."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._engine.frontends.close()

    def end_all(self, reason: str) -> None:
        """End every response that is under way, and all that are to begin, with an error that says why."""
        self._end = UpstreamError(f"ended: {reason}", client_message=reason, own_reason="draining")
        for stream in tuple(self._streams):
            stream.fail(self._end)

    def begin(self, scope: Scope, send: Send, record: RequestRecord) -> Attempt:
        """Return the attempts of one request, which may have to wait before it is passed on; `end` them."""
        stream = ResponseStream(client_stream_of(scope), send, record, self._engine.activity)
        self._streams.add(stream)
        if self._end is not None:
            stream.fail(self._end)
        return Attempt(self._engine, stream, send, record, self._keep_alive)

    def end(self, attempt: Attempt, record: RequestRecord) -> None:
        """Note in the record what has become of the request, and end what the engine still does for it."""
        stream = attempt.stream
        self._streams.discard(stream)
        stream.abort()
        record.has_run, record.bytes_out = stream.has_run, stream.usage.size
        record.prompt_tokens, record.completion_tokens = stream.usage.tokens()
        record.is_estimate = stream.usage.is_estimate

    async def pass_on(self, attempt: Attempt, scope: Scope, request: ForwardedRequest) -> None:
        """Pass one request to the engine and its response to the client.

        Being cancelled, because the client has disconnected, ends the engine's work on it too.

        Raises:
            UpstreamError: the engine broke off a response that has begun and cannot carry an error event.
        """
        body = request.body
        head = request_head(
            scope["method"],
            request.target,
            scope["headers"],
            identity=request.record.request_id.encode(),
            body_bytes=body.size,
            without=request.without,
            extra=request.extra,
        )
        await attempt.run(EngineRequest(scope["method"], head, body, request.fields, scope["headers"]))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive / 2)
            for stream in self._streams:
                stream.tick()
