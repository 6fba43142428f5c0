"""What config.json alone says of a model: its context, its heads, and what it takes of memory."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_engine.models.model_config import (
    attention_heads,
    kv_cache_bytes,
    kv_value_bytes,
    loaded_bytes,
    longest_context,
    most_tokens,
)

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


def test_kv_of_a_real_start() -> None:
    """As vLLM 0.26 counted it: 32.94 GiB held 959,536 tokens of Qwen2.5-3B (cuda-h100-0.26-warm.log)."""
    room = 32.94 * (1 << 30)
    assert kv_cache_bytes(QWEN, 959_536) == pytest.approx(room, rel=0.001)
    assert most_tokens(QWEN, room) == pytest.approx(959_536, rel=0.001)


SLIDING = {"layer_types": ["full_attention", "sliding_attention"] * 18, "sliding_window": 4}


def test_kv_of_other_kinds() -> None:
    """Grouped heads, latent attention, sliding windows and linear layers, for ten tokens."""
    for change, expected in (
        ({"head_dim": 64}, 10 * 2 * 2 * 64 * 36 * 2),
        ({"num_key_value_heads": None}, 10 * 2 * 16 * 128 * 36 * 2),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 10 * 576 * 36 * 2),
        (SLIDING, (10 + 4) * 18 * 2 * 2 * 128 * 2),
        ({"layer_types": ["full_attention", "linear_attention"] * 18}, 10 * 18 * 2 * 2 * 128 * 2),
        ({"num_hidden_layers": None}, None),
        ({"hidden_size": None}, None),
    ):
        assert kv_cache_bytes(QWEN | change, 10) == expected
    assert kv_cache_bytes({"text_config": QWEN}, 10) == kv_cache_bytes(QWEN, 10)
    assert kv_cache_bytes(QWEN, 10, 1) == (kv_cache_bytes(QWEN, 10) or 0) // 2


def test_kv_value_bytes() -> None:
    """The cache is as wide as the model unless vLLM's flag says otherwise."""
    assert [kv_value_bytes(None, dtype) for dtype in ("bfloat16", "float32")] == [2, 4]
    assert [kv_value_bytes(flag, "float32") for flag in ("fp8_e4m3", "bfloat16", "auto")] == [1, 2, 4]


def test_no_room_and_no_limit() -> None:
    """Where nothing fits, no token does; a model whose cache does not grow, or is not known, has no limit."""
    assert all((most_tokens(QWEN, room) or 0) <= 0 for room in (-5.0, 0.0, 1.0))
    assert most_tokens({}, 1e9) is None
    assert most_tokens(QWEN | {"layer_types": ["mamba"] * 36}, 1e9) is None


def test_loaded_bytes() -> None:
    """Weights in another width are converted; quantised ones are not."""
    for config, dtype, expected in (
        ({"torch_dtype": "bfloat16"}, "float16", 1000),
        ({"torch_dtype": "float32"}, "bfloat16", 500),
        ({"dtype": "bfloat16"}, "float32", 2000),
        ({"torch_dtype": "float32", "quantization_config": {}}, "bfloat16", 1000),
        ({}, "bfloat16", 1000),
    ):
        assert loaded_bytes(1000, config, dtype) == expected
