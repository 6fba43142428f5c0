"""What the gateway answers itself, on both ports: probes, metrics, `/version`, the page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from vllm_engine import __version__
from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.answers import identified, send_rejected
from vllm_engine.gateway.local import probes
from vllm_engine.gateway.local.metric_history import Recorder
from vllm_engine.gateway.local.page import Page
from vllm_engine.gateway.observe.gateway_metrics import CONTENT_TYPE
from vllm_engine.gateway.observe.observation import Observation
from vllm_engine.gateway.observe.request_record import RequestRecord, shown
from vllm_engine.gateway.policy.auth import Keyring
from vllm_engine.gateway.policy.routes import check_method
from vllm_engine.gateway.rejection import Rejected

METRICS_PATHS = frozenset(("/metrics", "/v1/metrics"))

LOCAL_METHODS = frozenset(("GET", "HEAD"))

LOCAL_PATHS = probes.PUBLIC_PATHS | METRICS_PATHS | {"/version"}
"""Those that `HEALTH_PORT` and other origins' pages may ask for too: all but the page's."""

_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""OpenAPI 3.1, section 4.8.27; either one is enough."""


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: int | str


class ErrorBody(BaseModel):
    """The body of an error."""

    error: ErrorDetail


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        record = RequestRecord.of(scope)
        try:
            if record.path not in LOCAL_PATHS:
                raise Rejected(404, "unknown_route", "Not served on HEALTH_PORT; the API is on PORT")
            await self.local.answer(scope, receive, send, record)
        except Rejected as rejected:
            await send_rejected(send, record, rejected)
        finally:
            self.finished(record)


def local_routes(
    settings: Settings,
    status: StatusReader,
    build: probes.Build,
    observation: Observation,
    recorder: Recorder,
    keyring: Keyring,
    *,
    on_start: Callable[[], None],
    on_stop: Callable[[], None],
) -> LocalRoutes:
    """Return the routes: probes, `/version`, metrics, their description, and the page if it is enabled."""
    needs_key, keep_seconds = not keyring.is_open, settings.metrics_cache_seconds
    page = Page(recorder, needs_key=needs_key, keep_seconds=keep_seconds) if settings.enable_ui else None
    public_paths = probes.PUBLIC_PATHS | (METRICS_PATHS if settings.is_metrics_public else frozenset())
    if page is not None:
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
    app.state.status = status
    app.state.build = build

    async def metrics() -> Response:
        """Return vLLM's metrics unchanged, then the gateway's own."""
        return Response(await observation.render(), media_type=CONTENT_TYPE)

    for path in sorted(METRICS_PATHS):
        in_schema = path == "/metrics"
        app.add_api_route(path, metrics, include_in_schema=in_schema, response_class=PlainTextResponse)

    @cache
    def schema() -> bytes:
        return _describe(app, public_paths, needs_key=needs_key)

    async def openapi() -> Response:
        return Response(schema(), media_type="application/json")

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    routers = [probes.router] if page is None else [probes.router, page.router]
    return LocalRoutes(app, routers, public_paths)


def _describe(app: FastAPI, public_paths: Container[str], *, needs_key: bool) -> bytes:
    """Return `/openapi.json`: the routes, of which all but public ones need a key, if `needs_key`."""
    schema = app.openapi()
    if needs_key:
        components = schema.setdefault("components", {})
        components["securitySchemes"] = _SCHEMES
        body = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
        components.setdefault("schemas", {}).update(body.pop("$defs"))
        refused = {
            "description": "No valid API key was given.",
            "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
            "content": {"application/json": {"schema": body}},
        }
        for path, operations in schema["paths"].items():
            if path not in public_paths:
                for operation in operations.values():
                    operation["security"] = [{name: []} for name in _SCHEMES]
                    operation["responses"]["401"] = refused
    return json.dumps(schema).encode()
