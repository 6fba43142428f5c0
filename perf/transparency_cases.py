"""Every request by which the gateway is held to be transparent; `make nightly` asks them all.

`tests/support/engine_cases.py` has one of each class, which every `make test` asks.
"""

from __future__ import annotations

import gzip
import json

from tests.support.differential import Case
from tests.support.engine_cases import (
    CHAT,
    CHAT_BODY,
    COMPLETION,
    COUNT,
    HI,
    JSON_SCHEMA,
    MESSAGES,
    MODEL,
    NAMED,
    RESPONSE_BODY,
    RESPONSES,
    STREAM,
    TEXT_BODY,
    TOOLS,
    UNICODE,
    USAGE,
    USAGE_EACH,
    asks,
    refused,
)
from tests.support.raw_http import request

GENERATION = [
    asks(f"{name} {kind}", target, body, more)
    for name, target, body in (
        ("chat", CHAT, CHAT_BODY),
        ("completion", COMPLETION, TEXT_BODY),
        ("response", RESPONSES, RESPONSE_BODY),
        ("message", MESSAGES, CHAT_BODY),
    )
    for kind, more in (
        ("whole", {}),
        ("stream", STREAM),
        ("with usage", USAGE),
        ("with usage each time", USAGE_EACH),
        ("stopped", {"stop": [" "], "stop_sequences": [" "], "max_tokens": 8}),
        ("with an unknown key", {"whatever": 1}),
    )
]
SAMPLED = [
    asks(f"{name} {kind}", target, body, {"temperature": 1.0, "seed": 7}, more)
    for name, target, body in (("chat", CHAT, CHAT_BODY), ("completion", COMPLETION, TEXT_BODY))
    for kind, more in (
        ("sampled with a seed", {}),
        ("sampled stream with a seed", STREAM),
        ("twice", {"n": 2}),
        ("twice as a stream", {"n": 2, "stream": True}),
    )
]
CHATS = [
    asks("chat without a model", CHAT, CHAT_BODY, {"model": None}),
    asks("chat with logprobs", CHAT, CHAT_BODY, {"logprobs": True, "top_logprobs": 3}),
    asks("chat stream with logprobs", CHAT, CHAT_BODY, {"logprobs": True, "top_logprobs": 3}, STREAM),
    asks("chat with prompt logprobs", CHAT, CHAT_BODY, {"prompt_logprobs": 1}),
    asks("completion with logprobs", COMPLETION, TEXT_BODY, {"logprobs": 2}),
    asks("completion stream with logprobs", COMPLETION, TEXT_BODY, {"logprobs": 2}, STREAM),
    asks("chat with token ids", CHAT, CHAT_BODY, {"return_token_ids": True}, STREAM),
    asks("chat in JSON", CHAT, CHAT_BODY, {"response_format": {"type": "json_object"}, "max_tokens": 12}),
    asks("chat with a schema", CHAT, CHAT_BODY, JSON_SCHEMA, {"max_tokens": 24}),
    asks("chat stream with a schema", CHAT, CHAT_BODY, JSON_SCHEMA, {"max_tokens": 24}, STREAM),
    asks("chat with a choice", CHAT, CHAT_BODY, {"structured_outputs": {"choice": ["yes", "no"]}}),
    asks("chat with tools", CHAT, CHAT_BODY, TOOLS),
    asks("chat with tools, none wanted", CHAT, CHAT_BODY, TOOLS, {"tool_choice": "none"}),
    asks("chat with a named tool", CHAT, CHAT_BODY, NAMED),
    asks("chat stream with a named tool", CHAT, CHAT_BODY, NAMED, STREAM),
    asks("chat with a tool required", CHAT, CHAT_BODY, TOOLS, {"tool_choice": "required", "max_tokens": 24}),
    asks("chat after a tool's answer", CHAT, CHAT_BODY, TOOLS, {
        "tool_choice": "none",
        "messages": [
            *HI,
            {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ],
    }),
    asks("chat of many parts", CHAT, CHAT_BODY, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
    asks("chat with a picture", CHAT, CHAT_BODY, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}]}),
    asks("completion of unicode, echoed", COMPLETION, TEXT_BODY, {"prompt": UNICODE, "echo": True}),
    asks("completion of unicode, echoed in a stream", COMPLETION, TEXT_BODY, {"prompt": UNICODE, "echo": True}, STREAM),
    asks("completion of an emoji's first half", COMPLETION, TEXT_BODY, {"prompt": [10813, 242], "ignore_eos": True}, STREAM),
    asks("completion of two", COMPLETION, TEXT_BODY, {"prompt": ["a", "b"]}),
    asks("completion of tokens", COMPLETION, TEXT_BODY, {"prompt": [1, 2, 3]}),
    asks("completion with a suffix", COMPLETION, TEXT_BODY, {"suffix": "x"}),
    asks("completion of a long prompt", COMPLETION, TEXT_BODY, {"prompt": "word " * 1500}),
    asks("chat of a long prompt", CHAT, CHAT_BODY, {"messages": [{"role": "user", "content": UNICODE * 20}]}, STREAM),
    asks("chat of fifty tokens", CHAT, CHAT_BODY, {"max_tokens": 50, "ignore_eos": True}, STREAM),
    asks("chat with a priority", CHAT, CHAT_BODY, {"priority": 1}),
    asks("chat with a charset", CHAT, CHAT_BODY, headers=("Content-Type: application/json; charset=utf-8",)),
    asks("chat for gzip", CHAT, CHAT_BODY, headers=("Accept-Encoding: gzip, br, zstd",)),
    asks("chat of another origin", CHAT, CHAT_BODY, headers=("Origin: https://example.org",)),
    asks("chat with a key", CHAT, CHAT_BODY, headers=("Authorization: Bearer sk-x",)),
    asks("message with a system prompt", MESSAGES, CHAT_BODY, {"system": "Be brief."}),
    asks("message of Anthropic's client", MESSAGES, CHAT_BODY, STREAM, headers=("x-api-key: x", "anthropic-version: 2023-06-01")),
    asks("response with instructions", RESPONSES, RESPONSE_BODY, {"instructions": "Be brief."}),
    asks("response not stored", RESPONSES, RESPONSE_BODY, {"store": False}),
    asks("response in the background", RESPONSES, RESPONSE_BODY, {"background": True}),
    asks("response after none", RESPONSES, RESPONSE_BODY, {"previous_response_id": "resp_none"}),
]  # fmt: skip
QUESTIONS = [
    Case("models", request("GET", "/v1/models", None)),
    Case("models of another origin", request("GET", "/v1/models", None, "Origin: https://example.org")),
    Case("models with a query", request("GET", "/v1/models?a=%2F&b=1&b=2", None)),
    Case("a response that is not", request("GET", "/v1/responses/resp_none", None)),
    Case("a response that is not, cancelled", request("POST", "/v1/responses/resp_none/cancel", b"")),
    refused("count of tokens", COUNT, {"model": MODEL, "messages": HI}),
    refused("tokens of a text", "/tokenize", {"model": MODEL, "prompt": UNICODE}),
    refused("tokens as text", "/tokenize", {"prompt": UNICODE, "return_token_strs": True}),
    refused("tokens of messages", "/tokenize", {"model": MODEL, "messages": HI}),
    refused("text of tokens", "/detokenize", {"model": MODEL, "tokens": [19556, 905]}),
]
REFUSALS = [
    *(
        refused(f"{kind} {target}", target, body)
        for target in (CHAT, COMPLETION, RESPONSES, MESSAGES, COUNT, "/tokenize", "/detokenize")
        for kind, body in (
            ("cut body", b'{"model": "x", "mess'),
            ("two bodies", b"{}{}"),
            ("empty body", b""),
            ("list", b"[]"),
            ("no UTF-8", b'{"model": "\xff"}'),
            ("deep body", b'{"model": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
            ("long number", b'{"max_tokens": ' + b"9" * 5000 + b"}"),
            ("nothing in it", {}),
            ("model only", {"model": MODEL}),
            ("wrong types", {"model": 5, "messages": "x", "prompt": {}, "input": 5, "tokens": "x"}),
        )
    ),
    *(
        refused(f"unknown model {target}", target, body | {"model": "nobody/nothing"})
        for target, body in (
            (CHAT, CHAT_BODY),
            (COMPLETION, TEXT_BODY),
            (RESPONSES, RESPONSE_BODY),
            (MESSAGES, CHAT_BODY),
            (COUNT, {"messages": HI}),
            ("/tokenize", {"prompt": "x"}),
            ("/detokenize", {"tokens": [1]}),
        )
    ),
    *(
        refused(f"{kind} {target}", target, {key: value for key, value in (body | more).items() if key != without})
        for target, body, without in (
            (CHAT, CHAT_BODY, ""),
            (COMPLETION, TEXT_BODY, ""),
            (RESPONSES, RESPONSE_BODY, ""),
            (MESSAGES, CHAT_BODY, "max_tokens"),
        )
        for kind, more in (
            ("cold", {"temperature": -1}),
            ("hot", {"temperature": "hot"}),
            ("no tokens", {"max_tokens": 0, "max_output_tokens": 0}),
            ("too many tokens", {"max_tokens": 100_000, "max_output_tokens": 100_000, "stop": [" "]}),
            ("greedy twice", {"n": 2}),
            ("none at all", {"n": 0}),
            ("options of no stream", {"stream_options": {"include_usage": True}}),
            ("a stream that may be", {"stream": "maybe"}),
            ("no messages", {"messages": [], "prompt": "", "input": []}),
            ("a role that is none", {"messages": [{"role": "nobody", "content": "x"}]}),
            ("a bad schema", {"structured_outputs": {"json": {"type": "nothing"}}}),
            ("a bad pattern", {"structured_outputs": {"regex": "("}}),
            ("a tool that is not", {"tools": TOOLS["tools"], "tool_choice": {"type": "function", "function": {"name": "x"}}}),
            ("too many logprobs", {"logprobs": True, "top_logprobs": 10_000}),
        )
    ),
    *(
        refused(f"{kind} of {size} bytes", target, body)
        for size in (100_000, 3_000_000)
        for kind, target, body in (
            ("too long a chat", CHAT, CHAT_BODY | {"messages": [{"role": "user", "content": "x " * (size // 2)}]}),
            ("too long a stream", CHAT, CHAT_BODY | STREAM | {"messages": [{"role": "user", "content": "x " * (size // 2)}]}),
            ("too long a completion", COMPLETION, TEXT_BODY | {"prompt": "x " * (size // 2)}),
            ("too long a message", MESSAGES, CHAT_BODY | {"messages": [{"role": "user", "content": "x " * (size // 2)}]}),
        )
    ),
    refused("embeddings", "/v1/embeddings", {"model": MODEL, "input": "x"}),
    refused("score", "/v1/score", {"model": MODEL, "text_1": "x", "text_2": "y"}),
    refused("transcription", "/v1/audio/transcriptions", b"x"),
    refused("gzip", CHAT, gzip.compress(json.dumps(CHAT_BODY).encode(), mtime=0), "Content-Encoding: gzip"),
    refused("deflate that is none", CHAT, b"x", "Content-Encoding: deflate"),
    refused("an encoding that is none", CHAT, CHAT_BODY, "Content-Encoding: nothing"),
    Case("a body of text", request("POST", CHAT, json.dumps(CHAT_BODY).encode(), "Content-Type: text/plain")),
    Case("a body of no type", request("POST", CHAT, json.dumps(CHAT_BODY).encode())),
    Case("a form", request("POST", CHAT, b"model=x", "Content-Type: application/x-www-form-urlencoded")),
    Case("no body", request("POST", CHAT, None)),
]  # fmt: skip
ALL = {case.name: case for case in (*QUESTIONS, *REFUSALS, *GENERATION, *SAMPLED, *CHATS)}
