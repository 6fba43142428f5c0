"""Responses to what never becomes a request for the application."""

from __future__ import annotations

from http import HTTPStatus

from vllm_engine.gateway.error_dialect import ApiError, body_of
from vllm_engine.gateway.http.request_id import REQUEST_ID, request_id


def refusal(
    status: int, message: str, target: bytes = b"", *, retry_after_seconds: int | None = None
) -> bytes:
    """Return a whole response, after which the connection is closed; `target` as far as it is known."""
    identity = request_id(())
    path = target.partition(b"?")[0].decode("latin-1")
    body = body_of(ApiError.of(status, message), path, identity.decode())
    lines = [
        b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
        REQUEST_ID + b": " + identity,
        b"connection: close",
    ]
    if retry_after_seconds is not None:
        lines.append(b"retry-after: %d" % retry_after_seconds)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
