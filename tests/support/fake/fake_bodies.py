"""The fake engine's check of bodies: what FastAPI and pydantic find wrong in front of vLLM, in their words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any


@dataclass(frozen=True)
class BodyRule:
    """Which keys a body must have."""

    required: tuple[str, ...] = ()
    added: int = 0
    """How many keys vLLM adds before it looks, and counts in its message."""


CHAT = BodyRule(("messages",))
COMPLETION = BodyRule()
RESPONSES = BodyRule(("input",), added=1)
MESSAGES = BodyRule(("messages", "max_tokens"))
TOKENIZE = BodyRule(("prompt",))


class RefusalError(Exception):
    """A request that vLLM would answer with an error."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


def error_body(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    """Return vLLM's error body."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(message: str, param: str | None = None) -> RefusalError:
    """Return the refusal of a request that vLLM itself, not its web framework, finds wrong."""
    return RefusalError(400, error_body(message, "BadRequestError", 400, param))


def read_body(raw: bytes, content_type: str | None, rule: BodyRule) -> dict[str, Any]:
    """Check a body as FastAPI and pydantic do.

    Raises:
        RefusalError: it is not said to be JSON, or not a JSON object with the required keys.
    """
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise RefusalError(400, error_body(message, "Bad Request", 400))
    body = _parse(raw)
    if faults := _faults(body, rule):
        raise _invalid(faults)
    assert isinstance(body, dict)
    return body


def _faults(body: object, rule: BodyRule) -> list[dict[str, Any]]:
    if not isinstance(body, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        return [_fault("model_attributes_type", "body", text, body)]
    counted = body | {f"added {number}": None for number in range(rule.added)}
    missing = [name for name in rule.required if name not in body]
    return [_fault("missing", f"body.{name}", "Field required", counted) for name in missing]


def _parse(raw: bytes) -> object:
    if not raw:
        raise _invalid([_fault("missing", "body", "Field required", None)])
    try:
        return json.loads(raw)
    except (UnicodeDecodeError, RecursionError):
        raise RefusalError(400, {"detail": "There was an error parsing the body"}) from None
    except json.JSONDecodeError as error:
        fault = _fault("json_invalid", f"body.{error.pos}", "JSON decode error", {})
        raise _invalid([{**fault, "ctx": {"error": error.msg}}]) from None


def _fault(kind: str, where: str, message: str, value: object) -> dict[str, Any]:
    size = f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else str(value)
    return {"type": kind, "loc": where, "msg": message, "input": size}


def _invalid(faults: Sequence[Mapping[str, Any]]) -> RefusalError:
    label = "error" if len(faults) == 1 else "errors"
    message = f"{len(faults)} validation {label}:\n" + "\n".join(f"  {fault}" for fault in faults)
    status = HTTPStatus.BAD_REQUEST
    return RefusalError(status, error_body(message, status.phrase, status, faults[0]["loc"]))
