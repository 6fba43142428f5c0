"""The gateway's own errors, in the form that the clients of each route expect.

OpenAI's API has one error body, for which its Responses API has an event of its own within a stream;
Anthropic's API has another body. vLLM's own errors are passed on unchanged.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from http.client import responses
from typing import Any, Final

from vllm_engine.errors import error_body

_OPENAI_TYPES: Final = {
    401: "authentication_error",
    404: "NotFoundError",
    429: "rate_limit_error",
    500: "internal_error",
    502: "upstream_error",
    503: "unavailable_error",
}
"""By status; OpenAI's own words, and vLLM's where OpenAI has none. All others are a `BadRequestError`."""

_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By status, from Anthropic's API reference, where overload is 529; ours is 503."""

_NUMBER: Final = re.compile(rb'"sequence_number":\s*(\d{1,15})\b')
"""Cannot occur inside a JSON string, where quotes are escaped: text of a model is never read."""


class Dialect(StrEnum):
    """The form of a route's errors."""

    OPENAI = "openai"
    RESPONSES = "responses"
    """OpenAI's body; within a stream an event named `error`."""
    ANTHROPIC = "anthropic"


@dataclass(frozen=True, slots=True)
class ApiError:
    """What went wrong: the HTTP status, OpenAI's `type` for it, and a sentence for the client."""

    status: int
    kind: str
    message: str
    param: str | None = None
    code: int | str | None = None
    """For programs; the status if None."""

    @classmethod
    def of(cls, status: int, message: str) -> ApiError:
        """Return an error of the type that is usual for this status."""
        return cls(status, _OPENAI_TYPES.get(status, "BadRequestError"), message)


BROKEN_STREAM: Final = ApiError.of(502, "The engine broke off this stream")


def dialect_of(path: str) -> Dialect:
    """Return the dialect of a path, whether or not there is such a route."""
    if f"{path}/".startswith("/v1/messages/"):
        return Dialect.ANTHROPIC
    if f"{path}/".startswith("/v1/responses/"):
        return Dialect.RESPONSES
    return Dialect.OPENAI


def body_of(error: ApiError, path: str, request_id: str) -> bytes:
    """Return an error as the JSON body of an answer."""
    return _json(_body(error, dialect_of(path), request_id))


def event_of(error: ApiError, path: str, request_id: str, tail: bytes = b"") -> bytes:
    """Return an error as the last event of a stream (HTML, section 9.2: server-sent events).

    Anthropic's SDKs ignore it without the name `error`; OpenAI's raise if the data has the key `error`, so
    the Responses API's event has that beside the fields of its reference, and a number that follows the last
    one in `tail`, the end of the stream before it.
    """
    dialect = dialect_of(path)
    body = _body(error, dialect, request_id)
    if dialect is Dialect.OPENAI:
        return b"data: " + _json(body) + b"\n\n"
    if dialect is Dialect.RESPONSES:
        numbers = _NUMBER.findall(tail)
        told = {
            "type": "error",
            "code": error.code if isinstance(error.code, str) else error.kind,
            "message": error.message,
            "param": error.param,
            "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
        }
        body = told | body
    return b"event: error\ndata: " + _json(body) + b"\n\n"


def read_error(status: int, answer: bytes) -> ApiError:
    """Read the engine's refusal of a request, in any of vLLM's forms, its router's `detail` included.

    Anything else becomes `BROKEN_STREAM`.
    """
    try:
        body: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return BROKEN_STREAM
    error: Any = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message", error.get("detail")) if isinstance(error, dict) else None
    if not isinstance(message, str):
        return BROKEN_STREAM
    kind, param, code = error.get("type"), error.get("param"), error.get("code")
    return ApiError(
        status,
        kind if isinstance(kind, str) else responses.get(status, "Error"),
        message,
        param if isinstance(param, str) else None,
        code if isinstance(code, int | str) else None,
    )


def _body(error: ApiError, dialect: Dialect, request_id: str) -> dict[str, Any]:
    if dialect is not Dialect.ANTHROPIC:
        code = error.status if error.code is None else error.code
        return error_body(error.message, type=error.kind, code=code, param=error.param)
    fallback = "api_error" if error.status >= 500 else "invalid_request_error"
    kind = _ANTHROPIC_TYPES.get(error.status, fallback)
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()
