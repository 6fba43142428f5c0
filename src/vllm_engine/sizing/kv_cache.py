"""Pure: what the KV cache of a model takes on each GPU, by the model's config.json.

The rules are vLLM's, read in 0.32: the size of a token in `v1/kv_cache_interface.py` (`AttentionSpec`), the
heads of each GPU in `ModelConfig.get_num_kv_heads`, the groups of layers in `v1/core/kv_cache_utils.py`
(`_get_kv_cache_groups_uniform_page_size`), what a request holds in `SlidingWindowSpec` and
`get_max_concurrency_for_kv_cache_config`. Blocks of tokens are not rounded up: that is one block a request.
Where only vLLM knows how a layer keeps its state, nothing is claimed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_engine.models.model_config import attention_heads, first_number, text_config

_DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}
_MOST_TOKENS = 1 << 24
_KV_HEADS = (
    "num_key_value_heads",
    "n_head_kv",
    "num_kv_heads",
    "multi_query_group_num",
    "num_attention_groups",
)

_FULL, _LOCAL, _STATE = "full", "local", "state"
_KINDS = {
    "full_attention": _FULL,
    "attention": _FULL,
    "sliding_attention": _LOCAL,
    "chunked_attention": _LOCAL,
    "linear_attention": _STATE,
    "mamba": _STATE,
    "conv": _STATE,
}
"""What `layer_types` may name."""

_ALL_SLIDING = frozenset({"mistral", "mixtral", "phi3"})
"""`model_type`s whose `sliding_window`, where set, holds for every layer."""
_FULL_EVERY = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4}
"""`model_type`s of which every n-th layer is full and the others slide, where config.json does not say."""
_LATENT = frozenset(
    {"axk1", "deepseek_v2", "deepseek_v3", "glm4_moe_lite", "kimi_k2", "longcat_flash", "pangu_ultra_moe"}
)
"""`model_type`s with latent attention (`ModelArchConfigConvertorBase.is_deepseek_mla`) and no other cache."""

_HYBRID_KEYS = frozenset(
    {"attn_layer_period", "attn_type_list", "full_attention_interval", "hybrid_override_pattern"}
    | {"layers_block_type", "linear_attn_config", "mamba_d_state", "ssm_cfg", "ssm_state_size", "state_size"}
)
"""Keys of models that mix attention with other layers; `layer_types` says which, where it is there."""
_VLLM_ALONE = frozenset(
    {"block_configs", "compress_ratios", "global_head_dim", "index_head_dim", "index_topk"}
)
"""Keys of models whose layers differ in size, or that keep more than keys and values."""


@dataclass(frozen=True)
class KvCache:
    """What the KV cache takes on the GPU that holds most of it.

    Attributes:
        row_bytes: one token in one layer.
        full_layers: layers that keep every token.
        local_layers: layers that keep a window of them.
        window: tokens of that window.
        state_layers: layers whose state does not grow with the tokens; it is not counted.
        in_flight_tokens: what vLLM reserves for each window beside the window: tokens that it may have
            scheduled and not settled (`VllmConfig.max_in_flight_tokens`); 1 for what is held between steps.
    """

    row_bytes: int
    full_layers: int
    local_layers: int = 0
    window: int = 0
    state_layers: int = 0
    in_flight_tokens: int = 1

    @property
    def token_bytes(self) -> int:
        """What one more token takes while no window is full."""
        return self.row_bytes * (self.full_layers + self.local_layers)

    def held_bytes(self, tokens: int) -> int:
        """Return what a step reads for a request of `tokens`: no reserve, no padding."""
        return self.row_bytes * (
            self.full_layers * tokens
            + self.local_layers * (min(tokens, self.window) if self.window else tokens)
        )

    def request_bytes(self, tokens: int) -> int:
        """Return what vLLM reserves for one request of `tokens`."""
        layers, full, local = self._groups()
        held = min(tokens, self.window - 1 + self.in_flight_tokens) if self.window else tokens
        return layers * self.row_bytes * (full * tokens + local * held)

    def longest(self, room_bytes: float) -> int | None:
        """Return the longest request that fits into `room_bytes`; None where that is not limited."""
        if self.request_bytes(1) == 0:
            return None
        longest = bisect_right(range(_MOST_TOKENS), room_bytes, key=self.request_bytes)
        return longest - 1 if longest < _MOST_TOKENS else None

    def requests(self, room_bytes: float, tokens: int) -> float | None:
        """Return how many requests of `tokens` fit into `room_bytes`; None where that is not limited."""
        one = self.request_bytes(tokens)
        return max(0.0, room_bytes) / one if one else None

    def _groups(self) -> tuple[int, int, int]:
        """Return the layers of a group, and how many groups there are of full and of local layers.

        A block belongs to a group of layers; all groups have as many layers, and what lacks is padding.
        """
        kinds = [count for count in (self.full_layers, self.local_layers) if count]
        if not kinds:
            return 0, 0, 0
        layers = max(kinds) if max(kinds) < 1.5 * min(kinds) else min(kinds)
        return layers, -(-self.full_layers // layers), -(-self.local_layers // layers)


def kv_cache_of(
    config: Mapping[str, Any],
    value_bytes: int = 2,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    in_flight_tokens: int = 1,
) -> KvCache | None:
    """Return what the KV cache of a model takes; None where only vLLM knows.

    Args:
        config: the model's config.json.
        value_bytes: of one number in the cache.
        tensor_parallel: GPUs that share the heads. Each has at least one KV head, and the whole of a latent
            vector: beyond that more of them do not make the cache of a GPU smaller.
        pipeline_parallel: GPUs that share the layers.
        in_flight_tokens: see `KvCache`.
    """
    text = text_config(config)
    values = _values_per_row(config, text, tensor_parallel)
    kinds = _layer_kinds(text)
    if values is None or kinds is None or config.get("is_encoder_decoder"):
        return None
    window = first_number(text, ("sliding_window", "attention_chunk_size")) or 0
    if kinds[_LOCAL] and not window:
        return None
    share = {kind: -(-count // pipeline_parallel) for kind, count in kinds.items()}
    return KvCache(
        row_bytes=values * value_bytes,
        full_layers=share.get(_FULL, 0),
        local_layers=share.get(_LOCAL, 0),
        window=window if kinds[_LOCAL] else 0,
        state_layers=share.get(_STATE, 0),
        in_flight_tokens=in_flight_tokens,
    )


KV_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")
"""Values of `--kv-cache-dtype` whose numbers have one size; the others keep scales beside them."""


def kv_value_bytes(kv_cache_dtype: str | None, dtype: str, config: Mapping[str, Any]) -> int:
    """Return what one number in the KV cache takes; `kv_cache_dtype` is vLLM's flag, None where not given.

    Without the flag a quantised model may ask for 8 bits (`resolve_kv_cache_dtype_string`; `Attention` for
    compressed-tensors).
    """
    given = kv_cache_dtype if kv_cache_dtype not in (None, "auto") else _own_kv_dtype(config)
    if (given or "").startswith("fp8"):
        return 1
    return _DTYPE_BYTES.get(given or "") or _DTYPE_BYTES.get(dtype, 2)


def _own_kv_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the type of the KV cache that the model's own quantisation asks for."""
    found = config.get("quantization_config")
    if not isinstance(found, Mapping):
        return None
    inner = found.get("quantization")
    for part in (inner if isinstance(inner, Mapping) else found, found):
        asked = part.get("kv_cache_scheme") or part.get("kv_cache_quant_algo")
        if isinstance(asked, Mapping) and asked.get("num_bits") == 8 and asked.get("type") == "float":
            return "fp8"
        if isinstance(asked, str):
            return asked.lower()
    return None


def loaded_bytes(stored_bytes: int, config: Mapping[str, Any], dtype: str) -> int:
    """Return what weights take once loaded: a model stored in another width is converted.

    Quantised weights stay as they are.
    """
    text = text_config(config)
    stored = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "")
    widths = _DTYPE_BYTES.get(stored.removeprefix("torch.")), _DTYPE_BYTES.get(dtype)
    if quantization(config) is not None or None in widths:
        return stored_bytes
    return int(stored_bytes * (widths[1] or 1) / (widths[0] or 1))


def quantization(config: Mapping[str, Any]) -> str | None:
    """Return how the weights are quantised by the model's own word; None where they are not."""
    for part in (config, text_config(config)):
        for key in ("quantization_config", "compression_config"):
            if isinstance(found := part.get(key), Mapping):
                return str(found.get("quant_method") or "quantised")
    return None


def _values_per_row(config: Mapping[str, Any], text: Mapping[str, Any], tensor_parallel: int) -> int | None:
    """Return the numbers that one GPU keeps of one token in one layer."""
    heads, hidden = attention_heads(config), first_number(text, ("hidden_size", "n_embd"))
    if not text.keys().isdisjoint(_VLLM_ALONE):
        return None
    if isinstance(latent := text.get("kv_lora_rank"), int):
        if text.get("model_type") not in _LATENT:
            return None
        return latent + int(text.get("qk_rope_head_dim") or 0)
    size = first_number(text, ("head_dim", "hidden_size_per_head"))
    if heads is None or (size is None and hidden is None):
        return None
    size = size or (hidden or 0) // heads
    value_size = first_number(text, ("v_head_dim",)) or size
    return max(1, (kv_heads(config) or heads) // tensor_parallel) * (size + value_size)


def kv_heads(config: Mapping[str, Any]) -> int | None:
    """Return how many KV heads a layer has; None where unknown, or where it keeps a latent vector instead."""
    text = text_config(config)
    if isinstance(text.get("kv_lora_rank"), int):
        return None
    if text.get("multi_query") and not text.get("new_decoder_architecture"):
        return 1
    return first_number(text, _KV_HEADS) or attention_heads(config)


def _layer_kinds(text: Mapping[str, Any]) -> Counter[str] | None:
    """Return how many layers are of which kind; None where only vLLM knows."""
    layers = first_number(text, ("num_hidden_layers", "n_layer"))
    if layers is None:
        return None
    named = text.get("layer_types")
    if not isinstance(named, Sequence):
        return None if not text.keys().isdisjoint(_HYBRID_KEYS) else _by_window(text, layers)
    # The last ones may use the cache of layers before them (Gemma 3n).
    own = named[: len(named) - (first_number(text, ("num_kv_shared_layers",)) or 0)]
    kinds = [_KINDS.get(str(name)) for name in own]
    return None if None in kinds else Counter(kind for kind in kinds if kind)


def _by_window(text: Mapping[str, Any], layers: int) -> Counter[str] | None:
    window, kind = first_number(text, ("sliding_window",)), str(text.get("model_type"))
    is_off = text.get("use_sliding_window") is False or (
        kind.startswith("qwen") and "use_sliding_window" not in text
    )
    if window is None or is_off:
        return None if text.get("attention_chunk_size") else Counter({_FULL: layers})
    if every := first_number(text, ("sliding_window_pattern",)) or _FULL_EVERY.get(kind):
        full = layers // every
        return Counter({_FULL: full, _LOCAL: layers - full})
    return Counter({_LOCAL: layers}) if kind in _ALL_SLIDING else None
