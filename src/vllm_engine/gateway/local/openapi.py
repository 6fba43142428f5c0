"""`/openapi.json`: the routes that the gateway answers itself, and which of them need a key."""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

_SCHEMES: Final[dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""OpenAPI 3.1, section 4.8.27; either one is enough."""


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's form."""

    message: str
    type: str
    param: str | None
    code: int | str


class ErrorBody(BaseModel):
    """The body of an error."""

    error: ErrorDetail


def describe(app: FastAPI, public_paths: Container[str], *, needs_key: bool) -> bytes:
    """Return the description of an application's routes; all but public ones need a key, if `needs_key`."""
    schema = app.openapi()
    if needs_key:
        components = schema.setdefault("components", {})
        components["securitySchemes"] = _SCHEMES
        body = ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
        components.setdefault("schemas", {}).update(body.pop("$defs"))
        refused = {
            "description": "No valid API key was given.",
            "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
            "content": {"application/json": {"schema": body}},
        }
        for path, operations in schema["paths"].items():
            if path not in public_paths:
                for operation in operations.values():
                    operation["security"] = [{name: []} for name in _SCHEMES]
                    operation["responses"]["401"] = refused
    return json.dumps(schema).encode()
