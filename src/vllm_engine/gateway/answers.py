"""Sends the gateway's own error responses through plain ASGI: on the data path a framework costs too much."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Message, Send

from vllm_engine.gateway.error_dialect import ApiError, body_of
from vllm_engine.gateway.http.request_id import REQUEST_ID
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.rejection import Rejected


async def send_error(
    send: Send, record: RequestRecord, error: ApiError, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send one error as a whole answer, in the dialect of the request's route and with its id."""
    await _send(send, record, error.status, body_of(error, record.path, record.request_id), extra)


async def send_json(send: Send, record: RequestRecord, content: bytes) -> None:
    """Send JSON as a whole answer, with the request's id."""
    record.bytes_out = len(content)
    await _send(send, record, 200, content)


async def _send(
    send: Send,
    record: RequestRecord,
    status: int,
    content: bytes,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (REQUEST_ID, record.request_id.encode()),
        *extra,
    ]
    record.status = status
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def send_rejected(send: Send, record: RequestRecord, rejected: Rejected) -> None:
    """Tell the client why its request is not passed on, and note it in the record."""
    record.reject(rejected.status, rejected.reason)
    headers = [*rejected.headers, *retry_after(rejected.retry_after_seconds)]
    if rejected.leaves_body:
        headers.append((b"connection", b"close"))
    await send_error(send, record, ApiError.of(rejected.status, rejected.message), headers)


def retry_after(seconds: int | None) -> list[tuple[bytes, bytes]]:
    """Return the header that says when to come back; none where that would change nothing."""
    return [] if seconds is None else [(b"retry-after", str(seconds).encode())]


def identified(send: Send, record: RequestRecord) -> Send:
    """Return a `send` that adds the request's id to a framework's answer and notes its status."""

    async def send_identified(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            headers = [*message["headers"], (REQUEST_ID, record.request_id.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return send_identified
