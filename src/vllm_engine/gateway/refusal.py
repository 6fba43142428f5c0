"""Answers to what is not a request that the application could be asked to answer."""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from vllm_engine.errors import error_body
from vllm_engine.gateway.identity import REQUEST_ID, request_id


def refusal(status: int, message: str, retry_after_seconds: int | None = None) -> bytes:
    """Return a whole answer, after which the connection is closed."""
    kind = "unavailable_error" if status == 503 else "BadRequestError"
    body = json.dumps(error_body(message, type=kind, code=status)).encode()
    lines = [
        STATUS_LINE[status] + b"content-type: application/json",
        b"content-length: %d" % len(body),
        REQUEST_ID + b": " + request_id(()),
        b"connection: close",
    ]
    if retry_after_seconds is not None:
        lines.append(b"retry-after: %d" % retry_after_seconds)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
