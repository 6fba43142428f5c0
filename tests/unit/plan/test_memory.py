"""What a model takes of memory, from config.json alone."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_engine.models.model_config import kv_cache_bytes, kv_value_bytes, loaded_bytes, most_tokens

QWEN: dict[str, Any] = {
    "num_hidden_layers": 36,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
}
"""Qwen2.5-3B-Instruct."""


def test_kv_of_a_real_start() -> None:
    """As vLLM 0.26 counted it: 32.94 GiB held 959,536 tokens of Qwen2.5-3B (cuda-h100-0.26-warm.log)."""
    room = 32.94 * (1 << 30)
    assert kv_cache_bytes(QWEN, 959_536) == pytest.approx(room, rel=0.001)
    assert most_tokens(QWEN, room) == pytest.approx(959_536, rel=0.001)


@pytest.mark.parametrize(
    ("change", "tokens", "expected"),
    [
        ({"head_dim": 64}, 10, 10 * 2 * 2 * 64 * 36 * 2),
        ({"num_key_value_heads": None}, 10, 10 * 2 * 16 * 128 * 36 * 2),
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 10, 10 * 576 * 36 * 2),
        ({"layer_types": ["full_attention", "sliding_attention"] * 18, "sliding_window": 4}, 10,
         (10 + 4) * 18 * 2 * 2 * 128 * 2),
        ({"layer_types": ["full_attention", "linear_attention"] * 18}, 10, 10 * 18 * 2 * 2 * 128 * 2),
        ({"num_hidden_layers": None}, 10, None),
        ({"hidden_size": None}, 10, None),
    ],
)  # fmt: skip
def test_kv_of_other_kinds(change: dict[str, Any], tokens: int, expected: int | None) -> None:
    """Grouped heads, latent attention, sliding windows and linear layers each hold what they hold."""
    assert kv_cache_bytes(QWEN | change, tokens) == expected


def test_multimodal() -> None:
    """The language model inside a multimodal one is what has a cache."""
    assert kv_cache_bytes({"text_config": QWEN}, 10) == kv_cache_bytes(QWEN, 10)


def test_eight_bit_cache() -> None:
    """An fp8 cache holds twice the tokens."""
    assert kv_cache_bytes(QWEN, 10, 1) == (kv_cache_bytes(QWEN, 10) or 0) // 2


@pytest.mark.parametrize(
    ("flag", "dtype", "expected"),
    [(None, "bfloat16", 2), (None, "float32", 4), ("fp8_e4m3", "float32", 1), ("bfloat16", "float32", 2), ("auto", "half", 2)],
)  # fmt: skip
def test_kv_value_bytes(flag: str | None, dtype: str, expected: int) -> None:
    """The cache is as wide as the model unless vLLM's flag says otherwise."""
    assert kv_value_bytes(flag, dtype) == expected


@pytest.mark.parametrize("room", [-5.0, 0.0, 1.0])
def test_no_room(room: float) -> None:
    """Where nothing fits, no token does."""
    assert (most_tokens(QWEN, room) or 0) <= 0


def test_not_limited() -> None:
    """A model whose cache does not grow, or is not known, has no limit of this kind."""
    assert most_tokens({}, 1e9) is None
    assert most_tokens(QWEN | {"layer_types": ["mamba"] * 36}, 1e9) is None


@pytest.mark.parametrize(
    ("config", "dtype", "expected"),
    [
        ({"torch_dtype": "bfloat16"}, "float16", 1000),
        ({"torch_dtype": "float32"}, "bfloat16", 500),
        ({"dtype": "bfloat16"}, "float32", 2000),
        ({"torch_dtype": "float32", "quantization_config": {}}, "bfloat16", 1000),
        ({}, "bfloat16", 1000),
    ],
)
def test_loaded_bytes(config: dict[str, Any], dtype: str, expected: int) -> None:
    """Weights in another width are converted; quantised ones are not."""
    assert loaded_bytes(1000, config, dtype) == expected
