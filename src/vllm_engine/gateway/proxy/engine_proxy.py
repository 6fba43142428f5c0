"""The data path: one request to the engine, one answer back, byte for byte."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import Scope, Send

from vllm_engine.gateway.body.request_body import Body
from vllm_engine.gateway.http.client_stream import client_stream_of
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.proxy.attempt import Attempt, Engine, Request
from vllm_engine.gateway.proxy.forwarded_headers import request_head
from vllm_engine.gateway.proxy.response_stream import ResponseStream
from vllm_engine.gateway.proxy.upstream import UpstreamError


@dataclass(frozen=True)
class ForwardedRequest:
    """What the stages before the proxy have settled about one request."""

    record: RequestRecord
    target: bytes
    body: Body
    without: frozenset[bytes] = frozenset()
    extra: tuple[tuple[bytes, bytes], ...] = ()


class Proxy:
    """Passes admitted requests to the engine."""

    def __init__(self, engine: Engine, *, keep_alive_seconds: float) -> None:
        self._engine = engine
        self._keep_alive = keep_alive_seconds
        self._relays: set[ResponseStream] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._end: UpstreamError | None = None

    def start(self) -> None:
        """Begin to send keep-alive comments; needs a running event loop."""
        if self._keep_alive:
            self._ticker = asyncio.create_task(self._tick())

    def stop(self) -> None:
        """Close idle connections and end the timer."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._engine.upstream.close()

    def end_all(self, reason: str) -> None:
        """End every answer that is under way, and all that are to begin, with an error that says why."""
        self._end = UpstreamError(f"ended: {reason}", told=reason, own_reason="draining")
        for relay in tuple(self._relays):
            relay.fail(self._end)

    async def pass_on(self, scope: Scope, send: Send, passage: ForwardedRequest) -> None:
        """Pass one request to the engine and its answer to the client.

        Being cancelled, because the client has left, ends the engine's work on it too.

        Raises:
            UpstreamError: the engine broke off in an answer that cannot say so any more.
        """
        client = client_stream_of(scope)
        record, body = passage.record, passage.body
        relay = ResponseStream(client, send, record, self._engine.pulse)
        self._relays.add(relay)
        if self._end is not None:
            relay.fail(self._end)
        head = request_head(
            scope["method"],
            passage.target,
            scope["headers"],
            identity=record.request_id.encode(),
            body_bytes=body.size,
            without=passage.without,
            extra=passage.extra,
        )
        try:
            exchange = Attempt(self._engine, relay, send, record, self._keep_alive)
            await exchange.run(Request(scope["method"], head, body))
        finally:
            self._relays.discard(relay)
            relay.abort()
            record.has_run = relay.has_run
            record.prompt_tokens, record.completion_tokens = relay.usage.tokens()
            record.is_estimate = relay.usage.is_estimate

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive / 2)
            for relay in self._relays:
                relay.tick()
