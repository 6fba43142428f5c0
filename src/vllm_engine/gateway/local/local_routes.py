"""What the gateway answers itself, on both ports: probes, metrics, `/version`, the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from vllm_engine import __version__
from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.answers import identified, send_rejected
from vllm_engine.gateway.local import probes
from vllm_engine.gateway.local.metric_history import Recorder
from vllm_engine.gateway.local.openapi_document import OpenApiDocument
from vllm_engine.gateway.local.operator_report import Load, Reporter
from vllm_engine.gateway.local.page import Page
from vllm_engine.gateway.observe.gateway_metrics import CONTENT_TYPE
from vllm_engine.gateway.observe.observation import Observation
from vllm_engine.gateway.observe.request_record import RequestRecord, shown
from vllm_engine.gateway.policy.auth import Keyring
from vllm_engine.gateway.policy.readiness import HealthRules
from vllm_engine.gateway.policy.routes import RouteTable, check_method
from vllm_engine.gateway.rejection import Rejected

METRICS_PATHS = frozenset(("/metrics", "/v1/metrics"))

LOCAL_METHODS = frozenset(("GET", "HEAD"))

LOCAL_PATHS = probes.PUBLIC_PATHS | METRICS_PATHS | {"/version"}
"""Those that `HEALTH_PORT` and other origins' pages may ask for too: all but the page's."""


class LocalRoutes:
    """Answers the routes of a FastAPI application, and HEAD wherever it answers GET."""

    def __init__(self, app: FastAPI, routers: Sequence[APIRouter], public_paths: frozenset[str]) -> None:
        self.lifespan = app
        self.public_paths = public_paths
        """Those that need no key."""
        self._app = app
        routes = (route for router in (app.router, *routers) for route in router.routes)
        self._paths = frozenset(route.path for route in routes if isinstance(route, APIRoute))
        for router in routers:
            app.include_router(router)

    async def answer(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        """Answer one request.

        Raises:
            Rejected: there is no such route (404), or not with this method (405).
        """
        if record.path not in self._paths:
            message = f"No such route: {record.method} {shown(record.path)}"
            raise Rejected(404, "unknown_route", message)
        check_method(record.method, LOCAL_METHODS)
        # uvicorn keeps the scope as it was, and by that leaves out HEAD's body but not its length.
        await self._app({**scope, "method": "GET"}, receive, identified(send, record))


@dataclass(frozen=True)
class HealthPort:
    """The application of `HEALTH_PORT`: answers `LOCAL_PATHS` without a key, and nothing else."""

    local: LocalRoutes
    finished: Callable[[RequestRecord], None]
    elsewhere: str = "Not served on HEALTH_PORT; the API is on PORT"
    """What is said of the rest."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        record = RequestRecord.of(scope)
        try:
            if record.path not in LOCAL_PATHS:
                raise Rejected(404, "unknown_route", self.elsewhere)
            await self.local.answer(scope, receive, send, record)
        except Rejected as rejected:
            await send_rejected(send, record, rejected)
        finally:
            self.finished(record)


@dataclass(frozen=True)
class Sources:
    """What the answers are made of."""

    status: StatusReader
    observation: Observation
    recorder: Recorder
    reporter: Reporter
    engine_description: Callable[[], Awaitable[bytes | None]]
    """Asks for vLLM's OpenAPI document; None where it has none."""
    load: Load


def local_routes(
    settings: Settings,
    build: probes.Build,
    sources: Sources,
    keyring: Keyring,
    routes: RouteTable,
    *,
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
) -> LocalRoutes:
    """Return the routes: probes, `/version`, metrics, `/openapi.json`, and the page if it is enabled."""
    needs_key, recorder = not keyring.is_open, sources.recorder
    page = None
    public_paths = probes.PUBLIC_PATHS | (METRICS_PATHS if settings.is_metrics_public else frozenset())
    if settings.enable_ui:
        page = Page(
            recorder, sources.reporter, needs_key=needs_key, keep_seconds=settings.metrics_cache_seconds
        )
        public_paths |= page.public_paths

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        on_start()
        if page is not None:
            recorder.start()
        yield
        recorder.stop()
        on_stop()

    app = FastAPI(title="vllm-engine", version=__version__, lifespan=lifespan, openapi_url=None)
    app.router.redirect_slashes = False
    app.state.status, app.state.build = sources.status, build
    app.state.health_rules = HealthRules.of(settings)

    async def metrics() -> Response:
        """Return vLLM's metrics, then the gateway's own."""
        return Response(await sources.observation.render(), media_type=CONTENT_TYPE)

    for path in sorted(METRICS_PATHS):
        in_schema = path == "/metrics"
        app.add_api_route(
            path, metrics, include_in_schema=in_schema, response_class=PlainTextResponse, tags=["server"]
        )
    document = OpenApiDocument(
        app.openapi,
        sources.engine_description,
        sources.status,
        routes,
        public_paths,
        needs_key=needs_key,
        is_idle=lambda: sources.load.is_idle,
    )

    async def openapi() -> Response:
        return Response(await document.get(), media_type="application/json")

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    routers = [probes.router] if page is None else [probes.router, page.router]
    return LocalRoutes(app, routers, public_paths)
