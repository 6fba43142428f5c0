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
