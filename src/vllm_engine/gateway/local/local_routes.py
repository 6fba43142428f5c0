"""What the gateway answers itself, on both ports: probes, metrics, `/version`, the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache

from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from vllm_engine import __version__
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.answers import identified, send_rejected
from vllm_engine.gateway.local import probes
from vllm_engine.gateway.local.openapi import describe
from vllm_engine.gateway.local.page import Page
from vllm_engine.gateway.observe.gateway_metrics import CONTENT_TYPE
from vllm_engine.gateway.observe.request_record import RequestRecord, shown
from vllm_engine.gateway.policy.routes import check_method
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


class HealthPort:
    """The application of `HEALTH_PORT`: answers `LOCAL_PATHS` without a key, and nothing else."""

    def __init__(self, local: LocalRoutes, finished: Callable[[RequestRecord], None]) -> None:
        self._local = local
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        record = RequestRecord.of(scope)
        try:
            if record.path not in LOCAL_PATHS:
                raise Rejected(404, "unknown_route", "Not served on HEALTH_PORT; the API is on PORT")
            await self._local.answer(scope, receive, send, record)
        except Rejected as rejected:
            await send_rejected(send, record, rejected)
        finally:
            self._finished(record)


def local_routes(
    status: StatusReader,
    build: probes.Build,
    render_metrics: Callable[[], Awaitable[bytes]],
    page: Page | None,
    *,
    needs_key: bool,
    has_public_metrics: bool = False,
    on_start: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
) -> LocalRoutes:
    """Return the routes: probes, `/version`, metrics, their description, and the page if there is one."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        on_start()
        if page is not None:
            page.recorder.start()
        yield
        if page is not None:
            page.recorder.stop()
        on_stop()

    public_paths = _public_paths(page, has_public_metrics=has_public_metrics)
    app = FastAPI(title="vllm-engine", version=__version__, lifespan=lifespan, openapi_url=None)
    app.router.redirect_slashes = False
    app.state.status = status
    app.state.build = build

    async def metrics() -> Response:
        """Return vLLM's metrics unchanged, then the gateway's own."""
        return Response(await render_metrics(), media_type=CONTENT_TYPE)

    for path in sorted(METRICS_PATHS):
        in_schema = path == "/metrics"
        app.add_api_route(path, metrics, include_in_schema=in_schema, response_class=PlainTextResponse)

    @cache
    def schema() -> bytes:
        return describe(app, public_paths, needs_key=needs_key)

    async def openapi() -> Response:
        return Response(schema(), media_type="application/json")

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    routers = [probes.router] if page is None else [probes.router, page.router]
    return LocalRoutes(app, routers, public_paths)


def _public_paths(page: Page | None, *, has_public_metrics: bool) -> frozenset[str]:
    paths = probes.PUBLIC_PATHS | (METRICS_PATHS if has_public_metrics else frozenset())
    return paths if page is None else paths | page.public_paths
