"""What config.json alone says of the KV cache and the weights, on each GPU."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.models.test_model_config import QWEN
from vllm_engine.sizing.kv_cache import (
    KvCache,
    kv_cache_of,
    kv_heads,
    kv_value_bytes,
    loaded_bytes,
    quantization,
)


def cache(change: dict[str, Any] | None = None, **options: int) -> KvCache:
    found = kv_cache_of(QWEN | (change or {}), **options)
    assert found is not None
    return found


def test_a_real_start() -> None:
    """As vLLM 0.26 counted it: 32.94 GiB held 959,536 tokens of Qwen2.5-3B (cuda-h100-0.26-warm.log)."""
    room = 32.94 * (1 << 30)
    assert cache().request_bytes(959_536) == pytest.approx(room, rel=0.001)
    assert cache().longest(room) == pytest.approx(959_536, rel=0.001)


ROW = 2 * 2 * 128 * 2
"""Of QWEN in bfloat16: keys and values of two heads."""
MIXED = {"layer_types": ["full_attention", "sliding_attention"] * 18, "sliding_window": 4}
GEMMA = {"model_type": "gemma3_text", "sliding_window": 4}
LATENT = {"model_type": "deepseek_v3", "kv_lora_rank": 512, "qk_rope_head_dim": 64}
KINDS: list[tuple[dict[str, Any], int]] = [
    ({"head_dim": 64}, 10 * 36 * ROW // 2),
    ({"num_key_value_heads": None}, 10 * 36 * ROW * 8),
    ({"multi_query": True}, 10 * 36 * ROW // 2),
    ({"v_head_dim": 64}, 10 * 36 * ROW * 3 // 4),
    (LATENT, 10 * 576 * 36 * 2),
    (MIXED, (10 + 4) * 18 * ROW),
    # 6 full layers; 30 with a window make 5 groups of 6.
    (GEMMA, (10 + 5 * 4) * 6 * ROW),
    # 5 full layers; 29 with a window make 6 groups of 5, of which one layer is padding.
    (GEMMA | {"num_hidden_layers": 34}, (10 + 6 * 4) * 5 * ROW),
    # 12 and 13 layers are padded to 13 each, as vLLM's comment has it.
    (
        {"layer_types": ["full_attention"] * 13 + ["sliding_attention"] * 12, "sliding_window": 4},
        (10 + 4) * 13 * ROW,
    ),
    ({"model_type": "mistral", "sliding_window": 4}, 4 * 36 * ROW),
    ({"model_type": "qwen2", "sliding_window": 4}, 10 * 36 * ROW),
    ({"use_sliding_window": False, "sliding_window": 4}, 10 * 36 * ROW),
    (
        {"layer_types": ["full_attention", "chunked_attention"] * 18, "attention_chunk_size": 4},
        (10 + 4) * 18 * ROW,
    ),
    ({"layer_types": ["full_attention", "linear_attention"] * 18}, 10 * 18 * ROW),
    ({"layer_types": ["full_attention"] * 36, "num_kv_shared_layers": 16}, 10 * 20 * ROW),
]


def test_kinds() -> None:
    """Grouped and single heads, latent attention, windows, chunks, linear and shared layers, for ten tokens."""
    for change, expected in KINDS:
        assert cache(change).request_bytes(10) == expected, change
    assert kv_cache_of({"text_config": QWEN}) == kv_cache_of(QWEN)
    assert cache(value_bytes=1).request_bytes(10) == cache().request_bytes(10) // 2
    assert cache({"layer_types": ["linear_attention"] * 36}).state_layers == 36


UNKNOWN: list[dict[str, Any]] = [
    {"num_hidden_layers": None},
    {"hidden_size": None},
    {"kv_lora_rank": 512, "model_type": "minicpm3"},
    LATENT | {"index_topk": 2048},
    {"compress_ratios": [1, 4]},
    {"attn_layer_period": 8},
    {"hybrid_override_pattern": "M*"},
    {"layer_types": ["rwkv"] * 36},
    {"model_type": "novel", "sliding_window": 4},
    {"is_encoder_decoder": True},
    MIXED | {"sliding_window": None},
]


def test_nothing_is_claimed_that_only_vllm_knows() -> None:
    assert [change for change in UNKNOWN if kv_cache_of(QWEN | change) is not None] == []
    assert kv_cache_of({}) is None


def test_several_gpus() -> None:
    """Heads are shared until each GPU has one; a latent vector is whole on each; layers are rounded up."""
    whole = cache().row_bytes
    assert [cache(tensor_parallel=n).row_bytes for n in (1, 2, 4, 16)] == [
        whole,
        whole // 2,
        whole // 2,
        whole // 2,
    ]
    assert cache(LATENT, tensor_parallel=8) == cache(LATENT)
    assert [cache(pipeline_parallel=n).full_layers for n in (2, 5)] == [18, 8]
    assert (kv_heads(QWEN), kv_heads(QWEN | LATENT), kv_heads({})) == (2, None, None)


def test_what_steps_under_way_hold() -> None:
    """vLLM reserves, beside the window, the tokens of the steps under way, up to the whole request."""
    window = cache(MIXED, in_flight_tokens=100)
    assert window.request_bytes(1000) == (1000 + 103) * 18 * ROW
    assert window.request_bytes(50) == (50 + 50) * 18 * ROW
    assert window.held_bytes(1000) == (1000 + 4) * 18 * ROW
    assert window.token_bytes == 36 * ROW


def test_no_room_and_no_limit() -> None:
    """Where nothing fits, no token does; a cache that does not grow has no limit."""
    assert all((cache().longest(room) or 0) <= 0 for room in (-5.0, 0.0, 1.0))
    endless = cache({"layer_types": ["mamba"] * 36})
    assert (endless.longest(1e9), endless.requests(1e9, 100)) == (None, None)
    assert (cache().requests(-1.0, 100), cache().requests(36 * ROW * 250.0, 100)) == (0.0, 2.5)


def test_kv_value_bytes() -> None:
    """The cache is as wide as the model unless vLLM's flag says otherwise."""
    assert [kv_value_bytes(None, dtype, {}) for dtype in ("bfloat16", "float32")] == [2, 4]
    assert [kv_value_bytes(flag, "float32", {}) for flag in ("fp8_e4m3", "bfloat16", "auto")] == [1, 2, 4]
    scheme = {"num_bits": 8, "type": "float"}
    for asked, expected in (
        ({"kv_cache_scheme": scheme}, 1),
        ({"kv_cache_scheme": None}, 2),
        ({"kv_cache_scheme": scheme | {"type": "int"}}, 2),
        ({"kv_cache_quant_algo": "FP8"}, 1),
        ({"quantization": {"kv_cache_quant_algo": "FP8"}}, 1),
    ):
        assert kv_value_bytes(None, "bfloat16", {"quantization_config": asked}) == expected
        assert kv_value_bytes("bfloat16", "bfloat16", {"quantization_config": asked}) == 2


def test_loaded_bytes() -> None:
    """Weights in another width are converted; quantised ones are not."""
    for config, dtype, expected in (
        ({"torch_dtype": "bfloat16"}, "float16", 1000),
        ({"torch_dtype": "float32"}, "bfloat16", 500),
        ({"dtype": "bfloat16"}, "float32", 2000),
        ({"torch_dtype": "float32", "quantization_config": {}}, "bfloat16", 1000),
        ({"torch_dtype": "float32", "text_config": {"quantization_config": {}}}, "bfloat16", 1000),
        ({}, "bfloat16", 1000),
    ):
        assert loaded_bytes(1000, config, dtype) == expected
    assert quantization({"quantization_config": {"quant_method": "awq"}}) == "awq"
    assert (quantization({"quantization_config": {}}), quantization({})) == ("quantised", None)
