"""The FastAPI application for what the gateway answers itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_engine import __version__
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.error_dialect import ApiError, body_of
from vllm_engine.gateway.local import probes
from vllm_engine.gateway.local.openapi import describe
from vllm_engine.gateway.local.page import Page
from vllm_engine.gateway.observe.gateway_metrics import CONTENT_TYPE
from vllm_engine.gateway.observe.request_record import RECORD, RequestRecord, shown

METRICS_PATHS = frozenset(("/metrics", "/v1/metrics"))

OWN_METHODS = frozenset(("GET", "HEAD"))

OWN_PATHS = probes.PUBLIC_PATHS | METRICS_PATHS | {"/version"}
"""What the gateway answers itself, the page and what is its alone excepted."""


def own_app(
    status: StatusReader,
    build: probes.Build,
    render_metrics: Callable[[], Awaitable[bytes]],
    page: Page | None,
    *,
    public_paths: frozenset[str],
    needs_key: bool,
    on_start: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """Return the application that answers probes, `/version`, the page if there is one, and 404."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        on_start()
        if page is not None:
            page.recorder.start()
        yield
        if page is not None:
            page.recorder.stop()
        on_stop()

    app = FastAPI(title="vllm-engine", version=__version__, lifespan=lifespan, openapi_url=None)
    app.router.redirect_slashes = False
    app.state.status = status
    app.state.build = build
    app.include_router(probes.router)
    for path in sorted(METRICS_PATHS):
        app.add_api_route(
            path,
            _metrics_endpoint(render_metrics),
            include_in_schema=path == "/metrics",
            response_class=PlainTextResponse,
        )
    if page is not None:
        app.include_router(page.router)

    @cache
    def schema() -> bytes:
        return describe(app, public_paths, needs_key=needs_key)

    async def openapi() -> Response:
        return Response(schema(), media_type="application/json")

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _http_error)
    return _with_head(app)


def _with_head(app: ASGIApp) -> ASGIApp:
    """Return an application that answers HEAD wherever it answers GET (RFC 9110, section 9.1)."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # uvicorn keeps the scope as it was, and by that leaves the body out but not its length.
            scope = {**scope, "method": "GET"}
        await app(scope, receive, send)

    return answer


def _metrics_endpoint(render: Callable[[], Awaitable[bytes]]) -> Callable[[], Awaitable[Response]]:
    async def metrics() -> Response:
        """Return vLLM's metrics unchanged, then the gateway's own."""
        return Response(await render(), media_type=CONTENT_TYPE)

    return metrics


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 400
    record: RequestRecord = request.scope[RECORD]
    kind, message = "BadRequestError", HTTPStatus(status).phrase
    headers: dict[str, str] = {}
    if status == HTTPStatus.NOT_FOUND:
        kind, message = "NotFoundError", f"No such route: {record.method} {shown(record.path)}"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted(OWN_METHODS))
        message = f"{record.method} is not allowed here; allowed: {headers['Allow']}"
    content = body_of(ApiError(status, kind, message), record.path, record.request_id)
    return Response(content, status, headers, "application/json")
