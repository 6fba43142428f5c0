"""What `HEALTH_PORT` answers: probes, `/version` and `/metrics` for this deployment's own machines."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_engine.errors import error_body
from vllm_engine.gateway.identity import request_id
from vllm_engine.gateway.own import OWN_PATHS
from vllm_engine.gateway.record import Observer, RequestRecord
from vllm_engine.gateway.replies import identified, send_error


class HealthApp:
    """Answers `OWN_PATHS` without a key, and nothing else."""

    def __init__(self, own: ASGIApp, observers: Sequence[Observer]) -> None:
        self._own = own
        self._observers = tuple(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        record = RequestRecord(
            request_id=request_id(scope["headers"]).decode(), method=scope["method"], path=scope["path"]
        )
        send = identified(send, record)
        try:
            if scope["path"] in OWN_PATHS:
                await self._own(scope, receive, send)
            else:
                message = "Not served on HEALTH_PORT; the API is on PORT"
                body = error_body(message, type="NotFoundError", code=404)
                await send_error(send, 404, body, record.request_id.encode())
        finally:
            record.ended = time.monotonic()
            for observer in self._observers:
                observer.finished(record)
