"""One request of each class that vLLM answers in its own way: what clients send, as bytes."""

from __future__ import annotations

import json
from typing import Any

from tests.support.differential import Case
from tests.support.raw_http import post_json, request

MODEL = "bundled:smollm2-135m-instruct"
CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
SAME_ID = "X-Request-Id: same"
"""Ids grow out of it: so they are the same, and as long."""
HI = [{"role": "user", "content": "Say hi"}]
CHAT_BODY: dict[str, Any] = {"model": MODEL, "messages": HI, "max_tokens": 6, "temperature": 0}
TEXT_BODY: dict[str, Any] = {"model": MODEL, "prompt": "France is", "max_tokens": 6, "temperature": 0}
RESPONSE_BODY: dict[str, Any] = {"model": MODEL, "input": "Say hi", "max_output_tokens": 6, "temperature": 0}
STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
USAGE_EACH = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
UNICODE = "日本語 naïve Ωμέγα 👩‍👩‍👧🏽 🇫🇷 العربية 😀"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOLS = {"tools": [{"type": "function", "function": WEATHER}]}
NAMED = TOOLS | {"tool_choice": {"type": "function", "function": {"name": "weather"}}, "max_tokens": 24}
JSON_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}


def asks(name: str, target: str, *bodies: dict[str, Any], headers: tuple[str, ...] = ()) -> Case:
    """Return a case in which the model answers; bodies are laid over each other."""
    body = {key: value for part in bodies for key, value in part.items()}
    # The Rust frontend gives logprobs in the order of a hash map; several choices interleave as they come.
    is_unordered = bool({"logprobs", "prompt_logprobs"} & body.keys() or (body.get("n") or 1) > 1)
    data = post_json(target, body, SAME_ID, *headers)
    return Case(name, data, is_generation=True, is_unordered=is_unordered)


def refused(name: str, target: str, body: object, *headers: str) -> Case:
    """Return a case that vLLM refuses; bytes are sent as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    data = request("POST", target, content, SAME_ID, "Content-Type: application/json", *headers)
    # The Rust frontend words a range as a hash map, too.
    return Case(name, data, is_unordered=name.startswith(("cold", "no tokens", "none at all")))


LONG = "x " * 50_000
TOOL_STREAM = NAMED | STREAM

ANSWERED = (
    asks("chat", CHAT, CHAT_BODY),
    asks("chat with an unknown key", CHAT, CHAT_BODY, {"whatever": 1}),
    asks("chat stream with usage", CHAT, CHAT_BODY, USAGE),
    asks("chat twice as a stream", CHAT, CHAT_BODY, {"temperature": 1.0, "seed": 7, "n": 2}, STREAM),
    asks("chat with logprobs", CHAT, CHAT_BODY, {"logprobs": True, "top_logprobs": 3}),
    asks("chat stream with a named tool", CHAT, CHAT_BODY, TOOL_STREAM),
    asks("chat for gzip", CHAT, CHAT_BODY, headers=("Accept-Encoding: gzip, br, zstd", "Origin: https://example.org")),
    asks("completion of two", COMPLETION, TEXT_BODY, {"prompt": ["a", "b"]}),
    asks("completion stream with usage each time", COMPLETION, TEXT_BODY, USAGE_EACH),
    asks("completion of unicode, echoed in a stream", COMPLETION, TEXT_BODY, {"prompt": UNICODE, "echo": True}, STREAM),
    asks("completion of an emoji's first half", COMPLETION, TEXT_BODY, {"prompt": [10813, 242], "ignore_eos": True}, STREAM),
    asks("response", RESPONSES, RESPONSE_BODY),
    asks("response stream", RESPONSES, RESPONSE_BODY, STREAM),
    asks("message", MESSAGES, CHAT_BODY),
    asks("message stream", MESSAGES, CHAT_BODY, STREAM, headers=("x-api-key: x", "anthropic-version: 2023-06-01")),
)  # fmt: skip
ASKED = (
    Case("models", request("GET", "/v1/models", None, SAME_ID)),
    Case("models with a query", request("GET", "/v1/models?a=%2F&b=1&b=2", None, SAME_ID)),
    Case("a response that is not", request("GET", "/v1/responses/resp_none", None, SAME_ID)),
    refused("count of tokens", COUNT, {"model": MODEL, "messages": HI}),
    refused("tokens of a text", "/tokenize", {"model": MODEL, "prompt": UNICODE}),
)
REFUSED = (
    refused("cut body", CHAT, b'{"model": "x", "mess'),
    refused("cut body of a message", MESSAGES, b'{"model": "x", "mess'),
    refused("not UTF-8", CHAT, b'{"model": "\xff"}'),
    refused("empty body", COMPLETION, b""),
    refused("deep body", CHAT, b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    refused("long number", CHAT, b'{"max_tokens": ' + b"9" * 5000 + b"}"),
    refused("something missing in a response", RESPONSES, {"model": MODEL}),
    refused("unknown model", CHAT, CHAT_BODY | {"model": "nobody/nothing"}),
    refused("unknown model of a message", MESSAGES, CHAT_BODY | {"model": "nobody/nothing"}),
    refused("unknown model of a response", RESPONSES, RESPONSE_BODY | {"model": "nobody/nothing"}),
    refused("cold", CHAT, CHAT_BODY | {"temperature": -1}),
    refused("no tokens", COMPLETION, TEXT_BODY | {"max_tokens": 0}),
    refused("options of no stream", CHAT, CHAT_BODY | {"stream_options": {"include_usage": True}}),
    refused("too long a stream", CHAT, CHAT_BODY | STREAM | {"messages": [{"role": "user", "content": LONG}]}),
    refused("too long a message", MESSAGES, CHAT_BODY | {"messages": [{"role": "user", "content": LONG}]}),
    Case("a form", request("POST", CHAT, b"model=x", "Content-Type: application/x-www-form-urlencoded", SAME_ID)),
    Case("no body", request("POST", CHAT, None, SAME_ID)),
)  # fmt: skip
OURS = (
    Case("get of a post", request("GET", CHAT, None)),
    Case("put", request("PUT", CHAT, b"{}")),
    Case("delete", request("DELETE", "/v1/models", None)),
    Case("head", request("HEAD", "/v1/models", None)),
    Case("options", request("OPTIONS", "/v1/models", None)),
    Case(
        "preflight",
        request("OPTIONS", CHAT, None, "Origin: https://example.org", "Access-Control-Request-Method: POST"),
    ),
    Case("unknown route", request("GET", "/v1/nothing", None)),
    Case("one model", request("GET", f"/v1/models/{MODEL.replace(':', '-')}", None)),
    Case("a slash too many", request("GET", "/v1/models/", None)),
    Case("a leading slash too many", request("GET", "//v1/models", None)),
)
"""What the gateway answers in its own words."""
