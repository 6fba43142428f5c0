"""Limits: what real models' config.json say of context and heads."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_engine.models.model_config import attention_heads, longest_context

QWEN = {
    "max_position_embeddings": 32768,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "num_hidden_layers": 36,
    "hidden_size": 2048,
}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (QWEN, 32768),
        ({"n_positions": 1024, "n_head": 12}, 1024),
        ({"text_config": {"max_position_embeddings": 4096}, "max_position_embeddings": 1}, 4096),
        ({"max_position_embeddings": 8192, "rope_scaling": {"rope_type": "llama3", "factor": 8}}, 8192),
        ({"max_position_embeddings": 8192, "rope_scaling": {"type": "yarn", "factor": 4}}, 8192),
        ({"max_position_embeddings": 8192, "rope_scaling": {"type": "linear", "factor": 4}}, None),
        ({"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default"}}, 8192),
        (
            {
                "max_position_embeddings": 8192,
                "rope_parameters": {"full": {"rope_type": "default"}, "local": {"rope_type": "linear"}},
            },
            None,
        ),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({"max_position_embeddings": 8192, "rope_scaling": None}, 8192),
        ({}, None),
        ({"max_position_embeddings": "many"}, None),
    ],
)
def test_longest_context(config: dict[str, Any], length: int | None) -> None:
    """The maximum is vLLM's where its rule is plain, and unknown where it is not."""
    assert longest_context(config) == length


def test_heads() -> None:
    """Heads follow the configuration; where it does not tell, nothing is claimed."""
    assert attention_heads(QWEN) == 16
    assert attention_heads({}) is None
