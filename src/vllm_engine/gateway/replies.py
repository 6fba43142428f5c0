"""Whole answers of the gateway's own, sent without a framework: they stand on the data path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from starlette.types import Message, Send

from vllm_engine.engine.state import EngineState, EngineStatus
from vllm_engine.errors import error_body
from vllm_engine.gateway.identity import REQUEST_ID
from vllm_engine.gateway.record import RequestRecord

RETRY_AFTER_SECONDS = 5
"""What clients are told while nothing better is known about when the engine will be ready."""

_REASONS = {404: "unknown_route", 405: "method"}


async def send_error(
    send: Send,
    status: int,
    body: dict[str, Any],
    request_id: bytes,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Send one JSON error with the request's id."""
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (REQUEST_ID, request_id),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def send_not_ready(send: Send, status: EngineStatus, request_id: bytes) -> None:
    """Send the 503 that clients retry on, saying what the engine is doing.

    The body while loading is the field's convention (llama-server has it so).
    """
    retry = [(b"retry-after", str(RETRY_AFTER_SECONDS).encode())]
    await send_error(send, 503, not_ready_body(status), request_id, retry)


def not_ready_body(status: EngineStatus) -> dict[str, Any]:
    """Say in the error shape why requests cannot be answered now."""
    if status.state is EngineState.STARTING:
        done = "" if status.fraction is None else f" {status.fraction:.0%}"
        message = f"Loading model ({status.phase}{done}, {status.elapsed_seconds():.0f} s so far)"
    elif status.state is EngineState.FAILED:
        message = f"The engine has failed: {status.error or 'no reason is known'}"
    else:
        message = f"The engine is {status.state}"
    return error_body(message, type="unavailable_error", code=503)


def identified(send: Send, record: RequestRecord) -> Send:
    """Return a `send` that puts the request's id on an answer of our own and notes its status."""

    async def send_identified(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            if record.status in _REASONS:
                record.reject(record.status, _REASONS[record.status])
            headers = [pair for pair in message["headers"] if pair[0] != REQUEST_ID]
            message = {**message, "headers": [*headers, (REQUEST_ID, record.request_id.encode())]}
        await send(message)

    return send_identified
