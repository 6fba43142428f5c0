"""Pure: what a model's config.json tells: its longest context, its attention heads, the memory it takes.

The rules for the context are vLLM's (`ModelArchConfigConvertorBase.derive_max_model_len_and_key` and
`_get_and_verify_max_len`, read in 0.32). Where a config is of a kind they treat specially, nothing is
claimed and the decision is left to vLLM.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any

_LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
_UNSCALED_ROPE = {"default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling"}
_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}
_MOST_TOKENS = 1 << 24


def longest_context(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens the model holds, or None where only vLLM can tell."""
    text = _text_config(config)
    lengths = [value for key in _LENGTH_KEYS if isinstance(value := text.get(key), int) and value > 0]
    if not lengths or any(kind not in _UNSCALED_ROPE for kind in _rope_kinds(text)):
        return None
    own = text.get("model_max_length")
    return own if isinstance(own, int) and own > 0 else min(lengths)


def attention_heads(config: Mapping[str, Any]) -> int | None:
    """Return the number of attention heads, which `TENSOR_PARALLEL` must divide; None where unknown."""
    text = _text_config(config)
    heads = text.get("num_attention_heads", text.get("n_head"))
    return heads if isinstance(heads, int) and heads > 0 else None


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a multimodal config that describes its language model."""
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(key), Mapping):
            part: Mapping[str, Any] = config[key]
            return part
    return config


def _rope_kinds(text: Mapping[str, Any]) -> Iterator[str]:
    for key in ("rope_parameters", "rope_scaling"):
        value = text.get(key)
        if isinstance(value, Mapping):
            nested = [part for part in value.values() if isinstance(part, Mapping)]
            for part in nested or [value]:
                yield str(part.get("rope_type", part.get("type", "default")))


def loaded_bytes(stored_bytes: int, config: Mapping[str, Any], dtype: str) -> int:
    """Return what weights take once loaded: a model stored in another width is converted.

    Quantised weights stay as they are.
    """
    text = _text_config(config)
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
    text = _text_config(config)
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
