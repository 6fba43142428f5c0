"""Errors of ours as clients of each API read them: by body, by event, and by their SDKs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types.shared import ErrorResponse
from openai.types.responses import ResponseErrorEvent

from vllm_engine.gateway.error_dialect import (
    BROKEN_STREAM,
    ApiError,
    Dialect,
    body_of,
    dialect_of,
    event_of,
    read_error,
)

BROKEN = ApiError(502, "upstream_error", "The engine broke off this request")
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def test_a_routes_dialect_is_known_by_its_path() -> None:
    """Also where there is no such route."""
    for dialect, paths in (
        (Dialect.ANTHROPIC, (MESSAGES, "/v1/messages/count_tokens", "/v1/messages/nothing")),
        (Dialect.RESPONSES, (RESPONSES, "/v1/responses/resp_1")),
        (Dialect.OPENAI, (CHAT, "/v1/messages2", "/nowhere")),
    ):
        assert {dialect_of(path) for path in paths} == {dialect}


def test_bodies() -> None:
    """Each status has one of Anthropic's own types, and the body the request's id; elsewhere it is OpenAI's."""
    for status, kind in {
        400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error",
        405: "invalid_request_error", 408: "invalid_request_error", 413: "request_too_large",
        429: "rate_limit_error", 500: "api_error", 502: "api_error", 503: "overloaded_error",
    }.items():  # fmt: skip
        body = json.loads(body_of(ApiError(status, "ours", "why"), MESSAGES, "id-1"))
        assert body == {"type": "error", "error": {"type": kind, "message": "why"}, "request_id": "id-1"}
        if status != 413:  # in Anthropic's reference, but not among the SDK's types
            ErrorResponse.model_validate(body)
    for path in (CHAT, RESPONSES):
        body = json.loads(body_of(ApiError(429, "rate_limit_error", "why"), path, "id-1"))
        assert body == {"error": {"message": "why", "type": "rate_limit_error", "param": None, "code": 429}}


def test_event_of_responses() -> None:
    """It has the fields of OpenAI's reference, counted on from the stream's last whole event."""
    tail = b'data: {"sequence_number":6,"type":"x"}\n\nevent: y\ndata: {"text":"\\"sequence_number\\": 9'
    name, data = event_of(BROKEN, RESPONSES, "id-1", tail).decode().strip().split("\n")
    assert name == "event: error"
    event = ResponseErrorEvent.model_validate_json(data.removeprefix("data: "), strict=True)
    assert (event.type, event.code, event.sequence_number) == ("error", "upstream_error", 7)
    assert event.message == BROKEN.message


def test_sdks_raise() -> None:
    """OpenAI's and Anthropic's take half a response for a whole one unless they are made to raise."""
    messages: Any = [{"role": "user", "content": "x"}]

    def ask_openai(http: httpx2.Client) -> openai.OpenAI:
        return openai.OpenAI(base_url="http://x/v1", api_key="none", http_client=http, max_retries=0)

    def ask_anthropic(http: httpx2.Client) -> Iterable[object]:
        client = anthropic.Anthropic(base_url="http://x", api_key="none", http_client=http, max_retries=0)
        return client.messages.create(model="m", max_tokens=4, messages=messages, stream=True)

    asks: dict[str, Callable[[httpx2.Client], Iterable[object]]] = {
        CHAT: lambda http: ask_openai(http).chat.completions.create(
            model="m", messages=messages, stream=True
        ),
        RESPONSES: lambda http: ask_openai(http).responses.create(model="m", input="x", stream=True),
        MESSAGES: ask_anthropic,
    }
    for path, ask in asks.items():
        broken = httpx2.Response(
            200, headers={"content-type": "text/event-stream"}, content=event_of(BROKEN, path, "id-1", b"")
        )
        with (
            httpx2.Client(transport=httpx2.MockTransport(lambda _, broken=broken: broken)) as http,
            pytest.raises((openai.APIError, anthropic.APIStatusError), match="broke off"),
        ):
            list(ask(http))


def test_read_error() -> None:
    """Any body of vLLM's is understood, and nothing else passes for one; statuses need not be registered."""
    openai_body = b'{"error":{"message":"m","type":"t","param":"p","code":404}}'
    assert read_error(404, openai_body) == ApiError(404, "t", "m", "p", 404)
    assert read_error(404, b'{"type":"error","error":{"type":"t","message":"m"}}') == ApiError(404, "t", "m")
    assert read_error(404, b'{"detail":"Not Found"}') == ApiError(404, "Not Found", "Not Found")
    assert read_error(499, b'{"detail":"m"}') == ApiError(499, "Error", "m")
    for junk in (
        b'{"error":{"message":"cut',
        b"[" * 100_000,
        b"[]",
        b'{"error":"w"}',
        b'{"error":{"message":1}}',
    ):
        assert read_error(404, junk) == BROKEN_STREAM
