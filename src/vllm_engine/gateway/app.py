"""The ASGI application: `/v1/*` straight to the engine, everything else to FastAPI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from vllm_engine import __version__
from vllm_engine.engine.state import StatusReader
from vllm_engine.errors import error_body
from vllm_engine.gateway import probes
from vllm_engine.gateway.identity import REQUEST_ID, request_id
from vllm_engine.gateway.proxy import Proxy


class Gateway:
    """Sends a request to the proxy or to FastAPI by its path, at no cost per streamed chunk."""

    def __init__(self, status: StatusReader, build: probes.Build, proxy: Proxy) -> None:
        self._proxy = proxy
        self._own = _own_app(status, build, proxy)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            await self._proxy(scope, receive, send)
        else:
            await self._own(scope, receive, send)


def _own_app(status: StatusReader, build: probes.Build, proxy: Proxy) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await proxy.start()
        yield
        await proxy.stop()

    app = FastAPI(title="vllm-engine", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.status = status
    app.state.build = build
    app.include_router(probes.router)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _http_error)
    return app


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 400
    if status == HTTPStatus.NOT_FOUND:
        message, kind = f"No such route: {request.method} {request.url.path}", "NotFoundError"
    else:
        message, kind = HTTPStatus(status).phrase, "BadRequestError"
    headers = dict(getattr(error, "headers", None) or {})
    headers[REQUEST_ID.decode()] = request_id(request.headers.raw).decode()
    return JSONResponse(error_body(message, type=kind, code=status), status, headers)
