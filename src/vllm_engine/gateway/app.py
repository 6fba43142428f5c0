"""The ASGI application. `Gateway._serve` is one request from the client to the engine, step by step.

docs/request.md draws the steps. One that does not pass a request on raises `Rejected`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.engine.idle import ClientDemand
from vllm_engine.gateway.answers import send_error, send_json, send_rejected
from vllm_engine.gateway.body.body_fields import RequestFields, read_fields
from vllm_engine.gateway.body.request_body import Bodies, Body
from vllm_engine.gateway.body.token_estimate import TokenEstimate
from vllm_engine.gateway.error_dialect import ApiError
from vllm_engine.gateway.http.client_stream import client_stream_of
from vllm_engine.gateway.local.local_routes import LOCAL_METHODS, LOCAL_PATHS, LocalRoutes
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.observe.tracing import Tracer
from vllm_engine.gateway.policy.admission import Admission, Claim, Slot
from vllm_engine.gateway.policy.auth import CREDENTIAL_HEADERS, Keyring
from vllm_engine.gateway.policy.cors import Cors
from vllm_engine.gateway.policy.readiness import HealthRules, not_ready
from vllm_engine.gateway.policy.routes import Route, RouteTable, check_method
from vllm_engine.gateway.proxy.attempt import Attempt
from vllm_engine.gateway.proxy.engine_proxy import ForwardedRequest, Proxy
from vllm_engine.gateway.proxy.failover import Recovery
from vllm_engine.gateway.proxy.upstream_connection import UpstreamError
from vllm_engine.gateway.rejection import Rejected, draining

logger = logging.getLogger("gateway")

_SHUTTING_DOWN = "The server is shutting down"
_NO_CREDENTIALS: frozenset[bytes] = frozenset()
_NO_SCALE_OUT = ApiError(
    403, "PermissionDeniedError", "Scale-out endpoints are disabled; ENABLE_SCALE_OUT=1 enables them"
)
"""In place of vLLM's own, whose remedy is another (`vllm/entrypoints/scale_out/factories.py`)."""


@dataclass(kw_only=True, eq=False)
class Gateway:
    """Takes every request through the same steps: id, key, route, body, readiness, admission, engine."""

    status: StatusReader
    local: LocalRoutes
    keyring: Keyring
    routes: RouteTable
    bodies: Bodies
    admission: Admission
    proxy: Proxy
    cors: Cors
    tracer: Tracer | None
    recovery: Recovery
    demand: ClientDemand
    health_rules: HealthRules
    finished: Callable[[RequestRecord], None]
    """Called with each request's record at its end; must not raise."""
    has_scale_out: bool
    """Whether vLLM's scale-out endpoints are on, so that the engine is asked for what they answer."""
    in_flight: int = field(default=0, init=False)
    """How many API requests are under way, including those that are still being sent or wait."""
    _is_lame_duck: bool = field(default=False, init=False)
    _estimate: TokenEstimate = field(default_factory=TokenEstimate, init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def __post_init__(self) -> None:
        self._idle.set()

    async def until_idle(self) -> None:
        """Wait until no API request is under way."""
        await self._idle.wait()

    async def close(self) -> None:
        """Send the last spans."""
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)

    def begin_lame_duck(self) -> None:
        """Go on serving, if the engine does, although readiness says no: load balancers are yet to notice."""
        self._is_lame_duck = self.status.current.is_ready

    def begin_drain(self) -> None:
        """Refuse requests that are being sent, wait or come from now on; those at the engine go on."""
        self.admission.close(_SHUTTING_DOWN)
        self.bodies.budget.refuse_incomplete(draining(_SHUTTING_DOWN))

    def end_all(self) -> None:
        """End what is still under way with an error that says why."""
        self.proxy.end_all(_SHUTTING_DOWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            await self.local.lifespan(scope, receive, send)
            return
        client = client_stream_of(scope)
        if client.is_disconnected:
            return
        record = RequestRecord.of(scope)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - uvicorn makes one for each request
        # A disconnect ends the request wherever it is: reading, waiting, connecting, streaming.
        client.on_disconnect = task.cancel
        send = self.cors.wrap(scope, send)
        try:
            await self._serve(scope, receive, send, record)
        except asyncio.CancelledError:
            if not client_stream_of(scope).is_disconnected:
                raise
            task.uncancel()
            record.outcome = Outcome.CLIENT_GONE
        except UpstreamError as error:
            logger.warning("%s: %s", record.request_id, error)
            client.abort()
        except Exception:
            # The last resort: a defect must cost one request and be logged, not end the task silently.
            logger.exception("%s: a defect of the gateway", record.request_id)
            record.outcome = Outcome.FAILED
            if record.status:
                client.abort()
            else:
                defect = ApiError.of(500, "The gateway failed on this request")
                await send_error(send, record, defect, [(b"connection", b"close")])
        finally:
            client.on_disconnect = None
            self.finished(record)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        try:
            if self.cors.is_preflight(scope) and (methods := self._methods(scope)):
                record.status = 204
                await self.cors.answer_preflight(scope, send, methods, record.request_id.encode())
                return
            if not (record.path in self.local.public_paths or self.keyring.is_open):
                record.key = self.keyring.check(scope["headers"])
            route = self.routes.match(scope["raw_path"])
            if route is None:
                await self.local.answer(scope, receive, send, record)
                return
            record.route, record.is_core_work = route.template, route.is_core_work
            record.is_scale_out = route.is_scale_out
            check_method(record.method, route.methods)
            if route.is_scale_out and not self.has_scale_out:
                # Routers ask for every chat, so no engine is asked or woken for it, and no limit counts it.
                await send_error(send, record, _NO_SCALE_OUT)
                return
            if self.tracer is not None:
                record.span = self.tracer.start(scope["headers"], record)
            self.in_flight += 1
            self._idle.clear()
            try:
                await self._ask_engine(scope, receive, send, record, route)
            finally:
                self.in_flight -= 1
                if self.in_flight == 0:
                    self._idle.set()
        except Rejected as rejected:
            await send_rejected(send, record, rejected)

    async def _ask_engine(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord, route: Route
    ) -> None:
        # Both are checked before the body too: nobody should send one for nothing.
        self.admission.check_open()
        if not self.recovery.is_under_way:
            self._check_ready()
        client = client_stream_of(scope)
        attempt: Attempt | None = None
        is_whole = False
        try:
            self.bodies.check_announced(scope["headers"])
            with Body(self.bodies, record.key) as body:
                try:
                    await body.read(receive, is_here=client.has_whole_body)
                finally:
                    record.bytes_in = body.size
                is_whole = True
                client.watch_for_disconnect()
                has_choice = len(self.status.current.frontends) != 1
                fields = read_fields(body.data, with_python_fields=has_choice)
                record.is_stream = route.may_stream and fields.stream
                claim = self._claim(route, fields, body)
                if self.status.current.is_resting and route.is_routine:
                    await self._answer_at_rest(send, record, route)
                    return
                if self.recovery.is_under_way:
                    self.admission.check_key(record.key, claim)
                attempt = self.proxy.begin(scope, send, record)
                slot: Slot | None = None
                # Only a request that has come this far starts an idle engine.
                self.demand.enter(is_routine=route.is_routine)
                try:
                    slot = await self._admitted(record, claim, attempt)
                    body.keep()
                    await self.proxy.pass_on(attempt, scope, self._forwarded(scope, record, body, fields))
                    if route.changes_engine and record.status < 400:
                        self.demand.keep(f"a stop would lose what {route.template} has changed")
                finally:
                    self.proxy.end(attempt, record)
                    self.demand.leave(is_routine=route.is_routine)
                    if slot is not None:
                        slot.leave()
                        self._charge(slot, record, fields)
        except Rejected as rejected:
            rejected.leaves_body |= not is_whole
            if attempt is None or not await attempt.reject(rejected):
                raise

    async def _answer_at_rest(self, send: Send, record: RequestRecord, route: Route) -> None:
        """Answer what machines ask for as a matter of routine, for which no idle engine is started."""
        if not route.is_listing:
            raise not_ready(self.status.current)
        await send_json(send, record, self.health_rules.models(self.status.current))

    async def _admitted(self, record: RequestRecord, claim: Claim, attempt: Attempt) -> Slot:
        """Wait until the engine is ready and has a place for the request."""
        came = time.monotonic()
        has_waited = True
        try:
            if self.recovery.is_under_way or self.recovery.waiting:
                await attempt.while_waiting(self.recovery.until_ready())
            self._check_ready()
            return await self.admission.enter(record.key, claim)
        except Rejected as rejected:
            has_waited = rejected.has_waited
            raise
        finally:
            if has_waited:
                record.queue_seconds = time.monotonic() - came

    def _check_ready(self) -> None:
        if not (self.status.current.is_ready or self._is_lame_duck):
            raise not_ready(self.status.current)

    def _claim(self, route: Route, fields: RequestFields, body: Body) -> Claim:
        requests = fields.conversations if route.is_batch else 1
        if requests is None:
            # vLLM most likely refuses it at once; if not, each conversation is one object at least.
            requests = min(max(1, body.data.count(b"{")), self.admission.places)
        requests *= fields.choices
        tokens = self._estimate.prompt_tokens(fields) if route.is_core_work else 0
        return Claim(requests, tokens, route.is_core_work or route.template in self.routes.extra)

    def _charge(self, slot: Slot, record: RequestRecord, fields: RequestFields) -> None:
        """Charge a request's usage, or its estimate where the engine gave none but took the request."""
        if record.prompt_tokens is not None:
            self._estimate.learn(fields, record.prompt_tokens)
        elif record.has_run and (estimate := slot.estimate):
            record.prompt_tokens, record.is_prompt_estimate = estimate, True
        slot.record_tokens(record.prompt_tokens or 0, record.completion_tokens or 0)

    def _forwarded(
        self, scope: Scope, record: RequestRecord, body: Body, fields: RequestFields
    ) -> ForwardedRequest:
        target: bytes = scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        # With keys of ours, the client's key is not for the engine; without, it may be vLLM's own.
        without = _NO_CREDENTIALS if self.keyring.is_open else CREDENTIAL_HEADERS
        extra = record.span.headers if record.span else ()
        return ForwardedRequest(record, target, body, fields, without, extra)

    def _methods(self, scope: Scope) -> frozenset[str]:
        """Return the methods of the path's route; none where there is no such route."""
        route = self.routes.match(scope["raw_path"])
        if route is not None:
            return route.methods
        return LOCAL_METHODS if scope["path"] in LOCAL_PATHS else frozenset()
