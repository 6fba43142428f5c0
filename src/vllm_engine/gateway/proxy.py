"""The data path: one request to the engine, one answer back, byte for byte."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from starlette.types import Receive, Scope, Send

from vllm_engine.errors import error_body
from vllm_engine.gateway.body import BodyReader, wants_stream
from vllm_engine.gateway.connection import lane_of
from vllm_engine.gateway.headers import answer_headers, request_head
from vllm_engine.gateway.identity import REQUEST_ID
from vllm_engine.gateway.record import Outcome, RequestRecord
from vllm_engine.gateway.relay import Relay
from vllm_engine.gateway.replies import RETRY_AFTER_SECONDS, send_error
from vllm_engine.gateway.upstream import Upstream, UpstreamError

logger = logging.getLogger("gateway.proxy")

_ATTEMPTS = 3


@dataclass(frozen=True)
class Passage:
    """What the stages before the proxy have settled about one request."""

    record: RequestRecord
    target: bytes
    without: frozenset[bytes] = frozenset()
    extra: tuple[tuple[bytes, bytes], ...] = ()


class Proxy:
    """Passes admitted requests to the engine."""

    def __init__(self, socket: Path, bodies: BodyReader, *, keep_alive_seconds: float) -> None:
        self._upstream = Upstream(socket)
        self._bodies = bodies
        self._keep_alive = keep_alive_seconds
        self._relays: set[Relay] = set()
        self._ticker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send keep-alive comments; needs a running event loop."""
        if self._keep_alive:
            self._ticker = asyncio.create_task(self._tick())

    def stop(self) -> None:
        """Close idle connections and end the timer."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._upstream.close()

    async def pass_on(self, scope: Scope, receive: Receive, send: Send, passage: Passage) -> None:
        """Pass one request to the engine and its answer to the client.

        Being cancelled, because the client has left, ends the engine's work on it too.

        Raises:
            BodyError: the request's body cannot be taken.
            UpstreamError: the engine broke off in an answer that cannot say so any more.
        """
        self._bodies.check_announced(scope["headers"])
        body = await self._bodies.read(receive)
        lane = lane_of(scope)
        lane.watch()
        record = passage.record
        record.bytes_in = len(body)
        record.is_stream = wants_stream(body)
        relay = Relay(lane, send, record)
        self._relays.add(relay)
        try:
            await self._exchange(scope, send, passage, relay, body)
        finally:
            self._relays.discard(relay)
            self._bodies.release(body)
            relay.abort()
            record.prompt_tokens, record.completion_tokens = relay.usage.tokens()
            record.is_estimate = relay.usage.is_estimate

    async def _exchange(self, scope: Scope, send: Send, passage: Passage, relay: Relay, body: bytes) -> None:
        identity = passage.record.request_id.encode()
        head = request_head(
            scope["method"],
            passage.target,
            scope["headers"],
            identity=identity,
            body_bytes=len(body),
            without=passage.without,
            extra=passage.extra,
        )
        opened_early = False
        for attempt in range(_ATTEMPTS):
            try:
                connection = await self._upstream.connect(fresh=attempt > 0)
            except UpstreamError as error:
                await self._refuse(send, passage.record, error, 503)
                return
            relay.attach(connection)
            connection.start(head, body, relay, is_head_request=scope["method"] == "HEAD")
            opened_early = await self._until_head(relay, passage.record.is_stream, identity)
            # An idle connection may have been closed just now. Nothing of an answer has come then, and
            # once more on a new connection is safe (RFC 9112, section 9.3.1). Nor can the engine have acted
            # on a body that it has not read: it has refused that, and our writing on has lost its answer.
            may_repeat = connection.reused or connection.was_cut_short
            if relay.error is None or relay.has_begun or opened_early or not may_repeat:
                break
        if opened_early:
            await relay.continue_event_stream()
        elif relay.status is None:
            await self._refuse(send, passage.record, relay.error, 502)
        else:
            await relay.pass_on(
                answer_headers(relay.status, relay.headers, identity, is_event_stream=relay.is_event_stream)
            )

    async def _until_head(self, relay: Relay, is_stream: bool, identity: bytes) -> bool:
        """Wait for the answer's head; returns whether an event stream had to be opened before it came."""
        if not (is_stream and self._keep_alive):
            await relay.until_head()
            return False
        try:
            async with asyncio.timeout(self._keep_alive):
                await relay.until_head()
        except TimeoutError:
            await relay.open_event_stream((REQUEST_ID, identity))
            await relay.until_head()
            return True
        return False

    async def _refuse(
        self, send: Send, record: RequestRecord, error: UpstreamError | None, status: int
    ) -> None:
        logger.warning("%s: %s", record.request_id, error)
        record.outcome = Outcome.UPSTREAM_BROKEN
        record.status = status
        body = error_body("The engine broke off this request", type="upstream_error", code=status)
        retry = [(b"retry-after", str(RETRY_AFTER_SECONDS).encode())] if status == 503 else []
        await send_error(send, status, body, record.request_id.encode(), retry)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._keep_alive / 2)
            for relay in self._relays:
                relay.tick()
