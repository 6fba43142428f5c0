"""Pure: what a model takes of a device's memory, estimated from its files and its config.json."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

from vllm_engine.models.model_limits import attention_heads, text_config

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}
_MOST_TOKENS = 1 << 24


def loaded_bytes(stored_bytes: int, config: Mapping[str, Any], dtype: str) -> int:
    """Return what weights take once loaded: a model stored in another width is converted.

    Quantised weights stay as they are.
    """
    text = text_config(config)
    stored = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "")
    widths = _DTYPE_BYTES.get(stored.removeprefix("torch.")), _DTYPE_BYTES.get(dtype)
    if "quantization_config" in config or None in widths:
        return stored_bytes
    return int(stored_bytes * (widths[1] or 1) / (widths[0] or 1))


def kv_value_bytes(kv_cache_dtype: str | None, dtype: str) -> int:
    """Return what one number in the KV cache takes; `kv_cache_dtype` is vLLM's flag, None where not given."""
    if (kv_cache_dtype or "").startswith("fp8"):
        return 1
    return _DTYPE_BYTES.get(kv_cache_dtype or "") or _DTYPE_BYTES.get(dtype, 2)


def kv_cache_bytes(config: Mapping[str, Any], tokens: int, value_bytes: int = 2) -> int | None:
    """Return what the KV cache of one request of `tokens` takes over all layers; None where unknown.

    Layers with a sliding window hold no more than it; linear and state-space ones grow with nothing; latent
    attention (DeepSeek) keeps one compressed vector a token.
    """
    text = text_config(config)
    per_layer = _values_per_token(config, text)
    layers = text.get("num_hidden_layers")
    if per_layer is None or not isinstance(layers, int):
        return None
    kinds = text.get("layer_types") or ["full_attention"] * layers
    window = text.get("sliding_window") or tokens
    held = {"full_attention": tokens, "sliding_attention": min(tokens, int(window))}
    return sum(held.get(kind, 0) for kind in kinds) * per_layer * value_bytes


def most_tokens(config: Mapping[str, Any], room_bytes: float, value_bytes: int = 2) -> int | None:
    """Return the longest request whose KV cache fits into `room_bytes`; None where that is not limited."""
    if not kv_cache_bytes(config, 1, value_bytes):
        return None
    longest = bisect_right(
        range(_MOST_TOKENS), room_bytes, key=lambda tokens: kv_cache_bytes(config, tokens, value_bytes) or 0
    )
    return longest - 1 if longest < _MOST_TOKENS else None


def _values_per_token(config: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    if isinstance(latent := text.get("kv_lora_rank"), int):
        return latent + int(text.get("qk_rope_head_dim") or 0)
    heads, hidden = attention_heads(config), text.get("hidden_size")
    if heads is None or not isinstance(hidden, int):
        return None
    return 2 * int(text.get("num_key_value_heads") or heads) * int(text.get("head_dim") or hidden // heads)
