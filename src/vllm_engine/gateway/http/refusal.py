"""Answers to what is not a request that the application could be asked to answer."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from vllm_engine.gateway.error_dialect import ApiError, body_of
from vllm_engine.gateway.http.request_id import REQUEST_ID, request_id


def refusal(
    status: int, message: str, target: bytes = b"", *, retry_after_seconds: int | None = None
) -> bytes:
    """Return a whole answer, after which the connection is closed; `target` as far as it is known."""
    identity = request_id(())
    path = target.partition(b"?")[0].decode("latin-1")
    body = body_of(ApiError.of(status, message), path, identity.decode())
    lines = [
        STATUS_LINE[status] + b"content-type: application/json",
        b"content-length: %d" % len(body),
        REQUEST_ID + b": " + identity,
        b"connection: close",
    ]
    if retry_after_seconds is not None:
        lines.append(b"retry-after: %d" % retry_after_seconds)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
