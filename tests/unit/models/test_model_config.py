"""What config.json alone says of a model: its context and its heads."""

from __future__ import annotations

from typing import Any

from vllm_engine.models.model_config import attention_heads, longest_context

QWEN: dict[str, Any] = {
    **{"max_position_embeddings": 32768, "num_hidden_layers": 36, "hidden_size": 2048},
    **{"num_attention_heads": 16, "num_key_value_heads": 2, "torch_dtype": "bfloat16"},
}
"""Qwen2.5-3B-Instruct."""

LENGTH = {"max_position_embeddings": 8192}
MIXED = {"full": {"rope_type": "default"}, "local": {"rope_type": "linear"}}
CONTEXTS: list[tuple[dict[str, Any], int | None]] = [
    (QWEN, 32768),
    ({"n_positions": 1024, "n_head": 12}, 1024),
    ({"text_config": {"max_position_embeddings": 4096}, "max_position_embeddings": 1}, 4096),
    (LENGTH | {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, 8192),
    (LENGTH | {"rope_scaling": {"type": "yarn", "factor": 4}}, 8192),
    (LENGTH | {"rope_scaling": {"type": "linear", "factor": 4}}, None),
    (LENGTH | {"rope_parameters": {"rope_type": "default"}}, 8192),
    (LENGTH | {"rope_parameters": MIXED}, None),
    (LENGTH | {"model_max_length": 131072}, 131072),
    (LENGTH | {"rope_scaling": None}, 8192),
    ({"max_position_embeddings": "many"}, None),
    ({}, None),
]


def test_limits() -> None:
    """The longest context is vLLM's where its rule is plain; where the configuration is silent nothing is claimed."""
    for config, length in CONTEXTS:
        assert longest_context(config) == length, config
    assert (attention_heads(QWEN), attention_heads({})) == (16, None)
