"""What `HEALTH_PORT` answers: probes, `/version` and `/metrics` for this deployment's own machines."""

from __future__ import annotations

import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_engine.gateway.answers import identified, send_error
from vllm_engine.gateway.error_dialect import ApiError
from vllm_engine.gateway.http.request_id import request_id
from vllm_engine.gateway.local.local_routes import OWN_PATHS
from vllm_engine.gateway.observe.request_record import RECORD, Observer, RequestRecord


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
                await self._own({**scope, RECORD: record}, receive, send)
            else:
                message = "Not served on HEALTH_PORT; the API is on PORT"
                await send_error(send, record, ApiError(404, "NotFoundError", message))
        finally:
            record.ended = time.monotonic()
            for observer in self._observers:
                observer.finished(record)
