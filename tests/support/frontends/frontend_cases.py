"""Requests that tell vLLM's two frontends apart: which of them answers where both run, and why."""

from __future__ import annotations

from typing import Any

from tests.support.engine_cases import (
    CHAT,
    CHAT_BODY,
    COMPLETION,
    HI,
    JSON_SCHEMA,
    NAMED,
    STREAM,
    TEXT_BODY,
    TOOLS,
    asks,
    refused,
)

SAMPLING: dict[str, Any] = {
    **{"temperature": 0.8, "seed": 3, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1},
    **{"frequency_penalty": 0.2, "presence_penalty": 0.2, "logit_bias": {"28": -5}, "stop": ["zz"], "min_tokens": 2},
}  # fmt: skip
OF_A_ROUTER: dict[str, Any] = {
    **{"no_stop_trim": False, "separate_reasoning": True, "stream_reasoning": True, "return_hidden_states": False},
    **{"include_reasoning": True, "logprobs": False, "user": "u", "metadata": {"n": "2"}},
}  # fmt: skip
"""What vllm-router adds to every chat, and what clients add that vLLM ignores."""
NOT_NULL = (
    *("bad_words", "length_penalty", "min_tokens", "mm_payload", "priority", "request_id"),
    "routed_experts_prompt_start",
)
END_AT_ONCE = {"allowed_token_ids": [2]}
"""The model's end of a turn: an answer without text."""
SYSTEM = [{"role": "system", "content": "Be brief."}]
PART = {"type": "text", "text": "Say hi"}

BY_RUST = (
    asks("completion", COMPLETION, TEXT_BODY),
    asks("completion, sampled in every way", COMPLETION, TEXT_BODY, SAMPLING),
    asks("chat, sampled in every way", CHAT, CHAT_BODY, SAMPLING, STREAM),
    asks("chat of a router", CHAT, CHAT_BODY, OF_A_ROUTER),
    asks("chat stream stopped", CHAT, CHAT_BODY, STREAM, {"stop": [" glad"], "include_stop_str_in_output": True}),
    asks("chat stream with token ids", CHAT, CHAT_BODY, STREAM, {"return_token_ids": True}),
    asks("chat of a system, an assistant, one part", CHAT, CHAT_BODY, {
        "messages": [*SYSTEM, *HI, {"role": "assistant", "content": "Hi!"}, {"role": "user", "content": [PART]}],
    }),
    asks("completion without text", COMPLETION, TEXT_BODY, END_AT_ONCE),
    asks("chat of more tokens than there is room for", CHAT, CHAT_BODY, {"max_tokens": 8192, "stop": [" "]}),
)  # fmt: skip
"""Those that the Rust frontend answers as the Python frontend would."""
BY_PYTHON = (
    asks("chat three times", CHAT, CHAT_BODY, {"n": 3, "temperature": 1.0, "seed": 7}),
    asks("completion without a word", COMPLETION, TEXT_BODY, {"bad_words": [" a", " the"]}),
    asks("completion echoed", COMPLETION, TEXT_BODY, {"echo": True, "logprobs": 1}),
    asks("chat with a schema", CHAT, CHAT_BODY, JSON_SCHEMA, {"max_tokens": 24}),
    asks("chat with a choice", CHAT, CHAT_BODY, {"structured_outputs": {"choice": ["yes", "no"]}}),
    asks("chat with tools, none wanted", CHAT, CHAT_BODY, TOOLS, {"tool_choice": "none"}),
    asks("chat of a developer", CHAT, CHAT_BODY, {"messages": [SYSTEM[0] | {"role": "developer"}, *HI]}),
    asks("chat of two parts", CHAT, CHAT_BODY, {"messages": [{"role": "user", "content": [PART, PART]}]}),
    asks("chat without a prompt for the answer", CHAT, CHAT_BODY, {"add_generation_prompt": False}),
    asks("chat without text", CHAT, CHAT_BODY, END_AT_ONCE),
    # Refused by the Rust frontend alone.
    asks("chat that is null where it may be", CHAT, CHAT_BODY, {"stream": None, "logprobs": None, "stop": None}),
    asks("chat of a number in words", CHAT, CHAT_BODY, {"max_tokens": "6"}),
    # Refused by the Python frontend alone.
    refused("named tool without a parser", CHAT, CHAT_BODY | NAMED),
    refused("template of the client's", CHAT, CHAT_BODY | {"chat_template": "{{ messages }}"}),
    refused("schema that is none", CHAT, CHAT_BODY | {"structured_outputs": {"json": {"type": "nothing"}}}),
    refused("no completion at all", COMPLETION, TEXT_BODY | {"n": 0}),
    refused("more tokens than the model has", CHAT, CHAT_BODY | {"max_tokens": 100_000}),
    refused("budget for thinking without a parser", CHAT, CHAT_BODY | {"thinking_token_budget": 5}),
    refused("more tokens than anyone has", CHAT, CHAT_BODY | {"max_completion_tokens": 10**9}),
    refused("an empty bad word", CHAT, CHAT_BODY | {"bad_words": ["", "a"]}),
    *(
        refused(f"{name} that is null at {target}", target, body | {name: None})
        for target, body, more in ((CHAT, CHAT_BODY, ("add_generation_prompt",)), (COMPLETION, TEXT_BODY, ()))
        for name in (*more, *NOT_NULL)
    ),
    # Refused by both, in other words.
    refused("embeddings", "/v1/embeddings", {"model": CHAT_BODY["model"], "input": "x"}),
    refused("stop of nothing", CHAT, CHAT_BODY | {"stop": ""}),
)  # fmt: skip
"""Those that only the Python frontend answers, or that it answers otherwise."""
