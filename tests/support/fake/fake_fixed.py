"""Answers of the fake engine that need no engine."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any

from tests.support.fake.fake_bodies import error_body
from tests.support.fake.fake_http import Answer, Request
from tests.support.fake.fake_requests import Served


def model_list(served: Served) -> Answer:
    cards = [_model_card(served, name) for name in served.names]
    return Answer.json({"object": "list", "data": cards})


def _model_card(served: Served, name: str) -> dict[str, Any]:
    now = int(time.time())
    return {
        "id": name,
        "object": "model",
        "created": now,
        "owned_by": "vllm",
        "root": served.root,
        "parent": None,
        "max_model_len": served.max_model_len,
        "permission": [
            {
                "id": f"modelperm-{secrets.token_hex(8)}", "object": "model_permission", "created": now,
                "allow_create_engine": False, "allow_sampling": True, "allow_logprobs": True,
                "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False,
                "organization": "*", "group": None, "is_blocking": False,
            }
        ],
    }  # fmt: skip


async def no_such_response(request: Request) -> Answer:
    name = request.path.split("/")[3]
    message = f"Response with id '{name}' not found."
    return Answer.json(error_body(message, "invalid_request_error", 404, "response_id"), 404)


async def echo(request: Request) -> Answer:
    digest, size, chunks = hashlib.sha256(), 0, 0
    async for chunk in request.chunks():
        digest.update(chunk)
        size += len(chunk)
        chunks += bool(chunk)
    return Answer.json(
        {
            "method": request.method,
            "path": request.path,
            "raw_path": request.scope["raw_path"].decode("latin-1"),
            "query": request.scope["query_string"].decode("latin-1"),
            "http_version": request.scope["http_version"],
            "headers": [[k.decode("latin-1"), v.decode("latin-1")] for k, v in request.scope["headers"]],
            "body_bytes": size,
            "body_sha256": digest.hexdigest(),
            "body_chunks": chunks,
        }
    )


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _operation(name: str, body: str | None = None, **more: Any) -> dict[str, Any]:
    responses = {"200": {"description": "Successful Response", **_json({})}}
    if body is not None:
        more["requestBody"] = {**_json(_ref(body)), "required": True}
        responses["400"] = {"description": "Bad Request", **_json(_ref("ErrorResponse"))}
    return {"summary": name.replace("_", " ").title(), "operationId": name, "responses": responses, **more}


_ID = {
    "name": "response_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "title": "Response Id"},
}

DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "FastAPI", "version": "0.1.0"},
    "paths": {
        "/load": {"get": _operation("get_server_load")},
        "/version": {"get": _operation("show_version")},
        "/ping": {"get": _operation("ping_get"), "post": _operation("ping_post")},
        "/scale_elastic_ep": {"post": _operation("scale_elastic_ep", "ScaleRequest")},
        "/v1/models": {"get": _operation("show_available_models")},
        "/v1/chat/completions": {"post": _operation("create_chat_completion", "ChatCompletionRequest")},
        "/v1/responses/{response_id}": {
            "get": _operation("retrieve_responses", parameters=[_ID]),
            "delete": _operation("delete_responses", parameters=[_ID]),
        },
        "/tokenize": {"post": _operation("tokenize", "TokenizeRequest")},
    },
    "components": {
        "schemas": {
            "ChatCompletionRequest": {
                "type": "object",
                "required": ["messages"],
                "properties": {
                    "messages": {
                        "type": "array",
                        "items": {"anyOf": [_ref("UserMessage"), _ref("ToolMessage")]},
                    },
                    "model": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "temperature": {"type": "number", "minimum": 0, "description": "0 is greedy."},
                    "truncation_side": {"enum": ["left", "right"], "default": "right"},
                    "health": _ref("Health"),
                    "filter": _ref("Filter"),
                },
            },
            "UserMessage": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"const": "user"}, "content": {"type": "string"}},
            },
            "ToolMessage": {"type": "object", "properties": {"content": {"type": "string"}}},
            "Health": {"type": "string", "description": "A name that the gateway has too."},
            "Filter": {
                "oneOf": [_ref("And"), {"type": "string"}],
                "discriminator": {"propertyName": "kind", "mapping": {"or": "#/components/schemas/Or"}},
            },
            "And": {"type": "object", "properties": {"of": {"type": "array", "items": _ref("Filter")}}},
            "Or": {"type": "object", "properties": {"of": {"type": "array", "items": _ref("Filter")}}},
            "TokenizeRequest": {"type": "object", "properties": {"prompt": {"type": "string"}}},
            "ErrorResponse": {"type": "object", "properties": {"message": {"type": "string"}}},
            "ScaleRequest": {"type": "object", "properties": {"size": {"type": "integer"}}},
        }
    },
}
"""An OpenAPI document in the form of vLLM's own (FastAPI's), with little of everything that is in the real one."""
