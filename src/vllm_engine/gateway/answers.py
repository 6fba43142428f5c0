"""Whole answers of the gateway's own, sent without a framework: they stand on the data path."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Message, Send

from vllm_engine.engine.engine_state import EngineState, EngineStatus
from vllm_engine.gateway.error_dialect import ApiError, body_of
from vllm_engine.gateway.http.request_id import REQUEST_ID
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.rejection import RETRY_AFTER_SECONDS, Rejected

_KINDS = {429: "rate_limit_error", 503: "unavailable_error"}
_REASONS = {404: "unknown_route", 405: "method"}
_FOR_GOOD = frozenset((EngineState.FAILED, EngineState.STOPPED))


async def send_error(
    send: Send, record: RequestRecord, error: ApiError, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send one error as a whole answer, in the dialect of the request's route and with its id."""
    content = body_of(error, record.path, record.request_id)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (REQUEST_ID, record.request_id.encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def send_not_ready(send: Send, status: EngineStatus, record: RequestRecord) -> None:
    """Send the 503 that clients retry on, saying what the engine is doing.

    The body while loading is the field's convention (llama-server has it so).
    """
    await send_error(send, record, not_ready(status), retry_after(status))


async def send_rejected(send: Send, record: RequestRecord, rejected: Rejected, *, is_whole: bool) -> None:
    """Send why the gateway does not pass a request on; `is_whole`: all of its body has been read."""
    kind = _KINDS.get(rejected.status, "BadRequestError")
    headers = []
    if rejected.retry_after_seconds is not None:
        headers.append((b"retry-after", str(rejected.retry_after_seconds).encode()))
    if not is_whole:
        # What is left of the body is not read: the connection cannot be used again.
        headers.append((b"connection", b"close"))
    await send_error(send, record, ApiError(rejected.status, kind, str(rejected)), headers)


def retry_after(status: EngineStatus) -> list[tuple[bytes, bytes]]:
    """Return the header that says when to come back; none where that would be in vain.

    RFC 9110, section 10.2.3: it says how long the service is expected to be unavailable. An engine that has
    failed for good is not expected back (`ON_FATAL=hold`).
    """
    if status.state in _FOR_GOOD:
        return []
    return [(b"retry-after", str(RETRY_AFTER_SECONDS).encode())]


def not_ready(status: EngineStatus) -> ApiError:
    """Say why requests cannot be answered now."""
    if status.state is EngineState.STARTING:
        done = "" if status.fraction is None else f" {status.fraction:.0%}"
        message = f"Loading model ({status.phase}{done}, {status.elapsed_seconds():.0f} s so far)"
    elif status.state is EngineState.FAILED:
        message = f"The engine has failed: {status.error or 'no reason is known'}"
    else:
        message = f"The engine is {status.state}"
    return ApiError(503, "unavailable_error", message)


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
