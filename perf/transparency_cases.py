"""Every request by which the gateway is held to be transparent; `make nightly` asks them all.

`tests/support/engine_cases.py` has one of each class, which every `make test` asks.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

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
OPTIONS: dict[str, dict[str, Any]] = {
    "stop tokens": {"stop_token_ids": [28], "max_tokens": 30},
    "a stop in the text": {"stop": ["."], "max_tokens": 30, "include_stop_str_in_output": True},
    "bad words": {"bad_words": ["the", "The", "Hello"], "max_tokens": 12},
    "a logit bias": {"logit_bias": {"28": 100}},
    "allowed tokens": {"allowed_token_ids": [28, 30]},
    "at least some tokens": {"min_tokens": 5, "stop": ["a"], "max_tokens": 10},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.5},
    "truncation": {"top_k": 5, "top_p": 0.9, "min_p": 0.05, "temperature": 0.8, "seed": 3},
    "a negative seed": {"temperature": 1.0, "seed": -7},
    "odd sampling": {"temperature": 2.5, "top_k": -1, "seed": 4},
    "hardly any temperature": {"temperature": 0.001},
    "token ids": {"return_token_ids": True},
    "tokens as ids": {"return_tokens_as_token_ids": True, "logprobs": 1},
    "a cut prompt": {"truncate_prompt_tokens": 2},
    "special tokens": {"skip_special_tokens": False, "ignore_eos": True, "max_tokens": 60},
    "no spaces between special tokens": {"spaces_between_special_tokens": False},
    "a pattern": {"structured_outputs": {"regex": "[ab]{3}"}},
    "a grammar": {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}},
    "the old way of a choice": {"guided_choice": ["yes", "no"]},
    "parameters of transfer": {"kv_transfer_params": {"a": 1}},
    "a salt": {"cache_salt": "x"},
    "an id": {"request_id": "mine"},
    "what OpenAI has and vLLM has not": {
        "service_tier": "auto",
        "store": True,
        "metadata": {"a": "b"},
        "user": "u",
    },
    "arguments of extensions": {"vllm_xargs": {"a": "b"}},
    "larger steps": {"stream_interval": 3, "max_tokens": 10},
    "an end of repetition": {
        "repetition_detection": {"max_pattern_size": 2, "min_pattern_size": 1, "min_count": 3},
        "max_tokens": 40,
        "logit_bias": {"28": 100},
    },
    "nulls": {
        "n": None,
        "stop": None,
        "seed": None,
        "user": None,
        "logit_bias": None,
        "stream_options": None,
    },
    "a length penalty of one": {"length_penalty": 1.0},
    "a beam": {"use_beam_search": True, "n": 2},
    "the best of one": {"best_of": 1, "n": 1},
    "other special tokens": {"add_special_tokens": True},
    "no model": {"model": ""},
    "numbers in words": {"max_tokens": "6", "temperature": "0"},
    "a whole number with a point": {"max_tokens": 6.0},
    "an empty stop": {"stop": []},
    "a token out of the vocabulary": {"stop_token_ids": [-1]},
    "a bias out of range": {"logit_bias": {"28": 101}},
    "no token allowed": {"allowed_token_ids": []},
    "five stops": {"stop": list("abcde")},
    "a huge seed": {"seed": 2**63},
    "fields that the Rust frontend ignores": {"return_token_offsets": True, "routed_experts_prompt_start": 1},
}
"""What a body may have besides; each with a chat and a completion, whole and as a stream."""
MESSAGE_KINDS: dict[str, list[dict[str, Any]]] = {
    "a system": [{"role": "system", "content": "Be brief."}, *HI],
    "a role of its own": [{"role": "nobody", "content": "Be brief."}, *HI],
    "a function": [*HI, {"role": "function", "name": "f", "content": "x"}],
    "a name": [HI[0] | {"name": "bob"}],
    "two parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    "parts that are texts": [{"role": "user", "content": ["a", "b"]}],
    "a part with more": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]}],
    "no content": [{"role": "user"}],
    "empty content": [{"role": "user", "content": ""}],
    "an assistant without a word": [*HI, {"role": "assistant", "content": None}, *HI],
    "an assistant that reasoned": [*HI, {"role": "assistant", "content": "x", "reasoning_content": "y"}, *HI],
    "an assistant as the SDK gives it": [*HI, {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None}, *HI],
    "a refusal": [*HI, {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, *HI],
    "an assistant last": [*HI, {"role": "assistant", "content": "Hel"}],
    "space around": [{"role": "user", "content": "  hi \n"}],
    "special tokens": [{"role": "user", "content": "<|im_end|>\n<|im_start|>system\nhi"}],
}  # fmt: skip
FRONTENDS = [
    *(
        asks(f"{kind} with {name}{' as a stream' if stream else ''}", target, body, more, stream)
        for name, more in OPTIONS.items()
        for kind, target, body in (("chat", CHAT, CHAT_BODY), ("completion", COMPLETION, TEXT_BODY))
        for stream in ({}, USAGE)
    ),
    *(
        asks(
            f"chat of {name}{' as a stream' if stream else ''}",
            CHAT,
            CHAT_BODY,
            {"messages": messages},
            stream,
        )
        for name, messages in MESSAGE_KINDS.items()
        for stream in ({}, USAGE)
    ),
]
"""What tells vLLM's two frontends apart, if anything does."""
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
ALL = {case.name: case for case in (*QUESTIONS, *REFUSALS, *GENERATION, *SAMPLED, *CHATS, *FRONTENDS)}
