"""The ASGI application: who may ask, what is allowed, when it may go to the engine, and what it came to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.answers import identified, send_error, send_not_ready, send_rejected
from vllm_engine.gateway.body.body_fields import RequestFields, read_fields
from vllm_engine.gateway.body.request_body import Bodies, Body
from vllm_engine.gateway.body.token_estimate import TokenEstimate
from vllm_engine.gateway.error_dialect import ApiError
from vllm_engine.gateway.http.client_stream import ClientStream, client_stream_of
from vllm_engine.gateway.http.request_id import request_id
from vllm_engine.gateway.local.health_port import HealthApp
from vllm_engine.gateway.local.local_routes import OWN_METHODS, OWN_PATHS
from vllm_engine.gateway.observe.request_record import RECORD, Observer, Outcome, RequestRecord
from vllm_engine.gateway.observe.tracing import Tracer
from vllm_engine.gateway.policy.admission import Admission, Claim, Slot
from vllm_engine.gateway.policy.auth import CREDENTIAL_HEADERS, Keyring
from vllm_engine.gateway.policy.cors import Cors
from vllm_engine.gateway.policy.routes import Route, RouteTable
from vllm_engine.gateway.proxy.engine_proxy import ForwardedRequest, Proxy
from vllm_engine.gateway.proxy.failover import Recovery
from vllm_engine.gateway.proxy.upstream import UpstreamError
from vllm_engine.gateway.rejection import Rejected, draining

logger = logging.getLogger("gateway")

_SHUTTING_DOWN = "The server is shutting down"
_NO_CREDENTIALS: frozenset[bytes] = frozenset()


class Gateway:
    """Takes every request through the same stages: id, key, route, body, readiness, admission, engine."""

    def __init__(
        self,
        *,
        status: StatusReader,
        own: ASGIApp,
        public_paths: frozenset[str],
        keyring: Keyring,
        routes: RouteTable,
        bodies: Bodies,
        admission: Admission,
        proxy: Proxy,
        cors: Cors,
        tracer: Tracer,
        recovery: Recovery,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._status = status
        self._own = own
        self._public_paths = public_paths
        self._keyring = keyring
        self._routes = routes
        self._bodies = bodies
        self._admission = admission
        self._proxy = proxy
        self._cors = cors
        self._tracer = tracer
        self._recovery = recovery
        self._observers = tuple(observers)
        self._is_lame_duck = False
        self._estimate = TokenEstimate()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """How many API requests are under way, those that are still sent and those that wait included."""
        return self._running

    def health_app(self) -> ASGIApp:
        """Return the application of `HEALTH_PORT`: probes and metrics, and nothing else."""
        return HealthApp(self._own, self._observers)

    async def until_idle(self) -> None:
        """Wait until no API request is under way."""
        await self._idle.wait()

    async def close(self) -> None:
        """Send the last spans."""
        await asyncio.to_thread(self._tracer.close)

    def begin_lame_duck(self) -> None:
        """Go on serving although readiness says no: load balancers are still about to notice."""
        self._is_lame_duck = True

    def begin_drain(self) -> None:
        """Refuse those who send, those who wait and those who come; the engine keeps what it has."""
        self._admission.close(_SHUTTING_DOWN)
        self._bodies.budget.refuse_incomplete(draining(_SHUTTING_DOWN))

    def end_all(self) -> None:
        """End what is still under way with an error that says why."""
        self._proxy.end_all(_SHUTTING_DOWN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            await self._own(scope, receive, send)
            return
        lane = client_stream_of(scope)
        if lane.is_gone:
            return
        record = RequestRecord(
            request_id=request_id(scope["headers"]).decode(), method=scope["method"], path=scope["path"]
        )
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - uvicorn makes one for each request
        # The client's leaving ends its request wherever it is: reading, waiting, connecting, streaming.
        lane.on_gone = task.cancel
        send = self._cors.wrap(scope, send)
        try:
            if not (self._cors.is_preflight(scope) and await self._preflight(scope, send, record)):
                await self._serve(scope, receive, send, record)
        except asyncio.CancelledError:
            if not client_stream_of(scope).is_gone:
                raise
            task.uncancel()
            record.outcome = Outcome.CLIENT_GONE
        except UpstreamError as error:
            logger.warning("%s: %s", record.request_id, error)
            lane.abort()
        except Exception:
            # The last resort: a defect of ours must cost one request and be seen, not kill the task silently.
            logger.exception("%s: a defect of the gateway", record.request_id)
            record.outcome = Outcome.FAILED
            await self._fail(send, lane, record)
        finally:
            lane.on_gone = None
            record.ended = time.monotonic()
            if record.span is not None:
                record.span.end(record)
            for observer in self._observers:
                observer.finished(record)

    async def _preflight(self, scope: Scope, send: Send, record: RequestRecord) -> bool:
        route = self._routes.match(scope["raw_path"])
        if route is None and scope["path"] not in OWN_PATHS:
            return False
        methods = OWN_METHODS if route is None else route.methods
        record.status = 204
        await self._cors.answer_preflight(scope, send, methods, record.request_id.encode())
        return True

    async def _serve(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        is_public = scope["path"] in self._public_paths
        if not (is_public or self._keyring.is_open):
            record.key = self._keyring.authenticate(scope["headers"])
            if record.key is None:
                record.reject(401, "unauthorized")
                error = ApiError(401, "authentication_error", "Missing or wrong API key")
                await send_error(send, record, error, [(b"www-authenticate", b"Bearer")])
                return
        route = self._routes.match(scope["raw_path"])
        if route is None:
            await self._own({**scope, RECORD: record}, receive, identified(send, record))
            return
        record.route, record.is_core_work = route.template, route.is_core_work
        record.may_stream = route.may_stream
        if scope["method"] not in route.methods:
            record.reject(405, "method")
            allow = ", ".join(sorted(route.methods)).encode()
            message = f"{record.method} is not allowed here; allowed: {allow.decode()}"
            await send_error(send, record, ApiError(405, "BadRequestError", message), [(b"allow", allow)])
            return
        record.span = self._tracer.start(scope["headers"], record)
        self._running += 1
        self._idle.clear()
        try:
            await self._answer(scope, receive, send, record, route)
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, record: RequestRecord, route: Route
    ) -> None:
        lane = client_stream_of(scope)
        is_whole = False
        try:
            # Whoever comes in vain need not send a body first.
            self._admission.check_open()
            if not (self._can_serve or self._recovery.is_under_way):
                await self._not_ready(send, record)
                return
            self._bodies.check_announced(scope["headers"])
            with Body(self._bodies, record.key) as body:
                try:
                    await body.read(receive, is_here=lane.is_whole)
                finally:
                    record.bytes_in = body.size
                is_whole = True
                lane.watch()
                fields = read_fields(body.data)
                record.is_stream = record.may_stream and fields.stream
                slot = await self._turn(record, self._claim(route, fields, body))
                if slot is None:
                    await self._not_ready(send, record)
                    return
                body.keep()
                try:
                    await self._proxy.pass_on(scope, send, self._passage(scope, record, body))
                finally:
                    slot.leave()
                    self._charge(slot, record, fields)
        except Rejected as rejected:
            record.reject(rejected.status, rejected.reason)
            await send_rejected(send, record, rejected, is_whole=is_whole)

    def _claim(self, route: Route, fields: RequestFields, body: Body) -> Claim:
        requests = fields.conversations if route.is_batch else 1
        if requests is None:
            # vLLM most likely refuses it at once; if not, each conversation is one object at least.
            requests = min(max(1, body.data.count(b"{")), self._admission.places)
        requests *= fields.choices
        return Claim(requests, self._estimate.prompt_tokens(fields) if route.is_core_work else 0)

    def _charge(self, slot: Slot, record: RequestRecord, fields: RequestFields) -> None:
        """Charge what a request used: told, else estimated; nothing where the engine did not take it."""
        if record.prompt_tokens is not None:
            self._estimate.learn(fields, record.prompt_tokens)
        elif record.has_run and (estimate := slot.estimate):
            record.prompt_tokens, record.is_prompt_estimate = estimate, True
        slot.record_tokens(record.prompt_tokens or 0, record.completion_tokens or 0)

    async def _turn(self, record: RequestRecord, claim: Claim) -> Slot | None:
        """Wait for a place at the engine; None where it is not ready."""
        came = time.monotonic()
        try:
            if self._recovery.is_under_way:
                await self._recovery.until_ready()
            if not self._can_serve:
                return None
            slot = await self._admission.enter(record.key, claim)
        except Rejected as rejected:
            if rejected.has_waited:
                record.queue_seconds = time.monotonic() - came
            raise
        except asyncio.CancelledError:
            record.queue_seconds = time.monotonic() - came
            raise
        record.queue_seconds = time.monotonic() - came
        return slot

    @property
    def _can_serve(self) -> bool:
        return self._status.current.is_ready or self._is_lame_duck

    async def _not_ready(self, send: Send, record: RequestRecord) -> None:
        record.reject(503, "not_ready")
        await send_not_ready(send, self._status.current, record)

    def _passage(self, scope: Scope, record: RequestRecord, body: Body) -> ForwardedRequest:
        target: bytes = scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        # With keys of ours, the client's key is nobody else's business; without, it may be vLLM's own.
        without = _NO_CREDENTIALS if self._keyring.is_open else CREDENTIAL_HEADERS
        return ForwardedRequest(record, target, body, without, record.span.headers if record.span else ())

    @staticmethod
    async def _fail(send: Send, lane: ClientStream, record: RequestRecord) -> None:
        if record.status:
            lane.abort()
            return
        record.status = 500
        error = ApiError(500, "internal_error", "The gateway failed on this request")
        await send_error(send, record, error, [(b"connection", b"close")])
