"""The fake engine's check of bodies: what FastAPI and pydantic find wrong in front of vLLM, in their words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

Kind = Literal["string", "list", "bool", "float", "int"]

_TYPE_ERRORS: Mapping[Kind, tuple[str, str]] = {
    "string": ("string_type", "Input should be a valid string"),
    "list": ("list_type", "Input should be a valid list"),
    "bool": ("bool_parsing", "Input should be a valid boolean, unable to interpret input"),
    "float": ("float_parsing", "Input should be a valid number, unable to parse string as a number"),
    "int": ("int_parsing", "Input should be a valid integer, unable to parse string as an integer"),
}
_COMMON: Mapping[str, Kind] = {"model": "string", "stream": "bool", "temperature": "float"}


@dataclass(frozen=True)
class BodyRule:
    """Which keys a body must have, and of what kind the keys are that it may have."""

    required: tuple[str, ...]
    kinds: Mapping[str, Kind]
    added: int = 0
    """How many keys vLLM adds before it looks, and counts in its message."""


CHAT = BodyRule(("messages",), {**_COMMON, "messages": "list", "max_tokens": "int", "n": "int"})
COMPLETION = BodyRule((), {**_COMMON, "max_tokens": "int", "n": "int"})
RESPONSES = BodyRule(("input",), {**_COMMON, "max_output_tokens": "int"}, added=1)
MESSAGES = BodyRule(("messages", "max_tokens"), {**_COMMON, "messages": "list", "max_tokens": "int"})
COUNT_TOKENS = BodyRule(("messages",), {"model": "string", "messages": "list"})
TOKENIZE_TEXT = BodyRule(("prompt",), {"model": "string", "prompt": "string"})
TOKENIZE_CHAT = BodyRule(("messages",), {"model": "string", "messages": "list"})
DETOKENIZE = BodyRule(("tokens",), {"model": "string", "tokens": "list"})


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


def read_body(raw: bytes, content_type: str, rules: Sequence[BodyRule]) -> dict[str, Any]:
    """Check a body as FastAPI and pydantic do: it must keep one of the rules.

    Raises:
        RefusalError: it breaks them all.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise RefusalError(400, error_body(message, "Bad Request", 400))
    body = _parse(raw)
    faults = [_faults(body, rule) for rule in rules]
    if all(faults):
        raise _invalid([fault for some in faults for fault in some])
    assert isinstance(body, dict)
    return body


def _faults(body: object, rule: BodyRule) -> list[dict[str, Any]]:
    if not isinstance(body, dict):
        text = "Input should be a valid dictionary or object to extract fields from"
        return [_fault("model_attributes_type", "body", text, body)]
    counted = body | {f"added {number}": None for number in range(rule.added)}
    return [
        _fault("missing", f"body.{name}", "Field required", counted)
        for name in rule.required
        if name not in body
    ] + [
        _fault(_TYPE_ERRORS[kind][0], f"body.{name}", _TYPE_ERRORS[kind][1], body[name])
        for name, kind in rule.kinds.items()
        if body.get(name) is not None and not _is_a(kind, body[name])
    ]


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


def _is_a(kind: Kind, value: object) -> bool:
    if kind in ("string", "list"):
        return isinstance(value, str if kind == "string" else list)
    if kind == "bool":
        return str(value).lower() in ("0", "1", "true", "false", "on", "off", "yes", "no")
    try:
        number = float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        return False
    return number is not None and (kind == "float" or number.is_integer())


def _fault(kind: str, where: str, message: str, value: object) -> dict[str, Any]:
    shown = (
        f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else str(value)
    )
    return {"type": kind, "loc": where, "msg": message, "input": shown}


def _invalid(faults: Sequence[Mapping[str, Any]]) -> RefusalError:
    label = "error" if len(faults) == 1 else "errors"
    message = f"{len(faults)} validation {label}:\n" + "\n".join(f"  {fault}" for fault in faults)
    status = HTTPStatus.BAD_REQUEST
    return RefusalError(status, error_body(message, status.phrase, status, faults[0]["loc"]))
