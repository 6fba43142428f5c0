"""Pure: what a model's config.json tells: its longest context, its attention heads.

The rules for the context are vLLM's (`ModelArchConfigConvertorBase.derive_max_model_len_and_key` and
`_get_and_verify_max_len`, read in 0.32). Where a config is of a kind they treat specially, nothing is
claimed and the decision is left to vLLM.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


def longest_context(config: Mapping[str, Any]) -> int | None:
    """Return the most tokens the model holds, or None where only vLLM can tell."""
    text = text_config(config)
    lengths = [value for key in _LENGTH_KEYS if isinstance(value := text.get(key), int) and value > 0]
    if not lengths or any(kind not in _UNSCALED_ROPE for kind in _rope_kinds(text)):
        return None
    own = text.get("model_max_length")
    return own if isinstance(own, int) and own > 0 else min(lengths)


def attention_heads(config: Mapping[str, Any]) -> int | None:
    """Return the number of attention heads, which `TENSOR_PARALLEL` must divide; None where unknown."""
    return first_number(text_config(config), ("num_attention_heads", "n_head"))


def first_number(text: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    """Return the first of these keys' values that is a whole number above 0; None if there is none."""
    return next((value for key in keys if type(value := text.get(key)) is int and value > 0), None)


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
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
