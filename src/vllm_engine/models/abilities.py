"""Pure: what a served model takes besides text, and how it samples unless told otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_VISION_KEYS = ("vision_config", "vision_tower", "mm_vision_tower", "visual", "vit_config", "img_processor")
"""In which of its config's parts a model describes its vision encoder: vLLM has no route that tells."""

_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_new_tokens": "max_tokens",
}
"""What vLLM takes from generation_config.json, by its name there (`get_diff_sampling_param`, 0.32)."""


@dataclass(frozen=True)
class Abilities:
    """What is known of the served model; `sampling_defaults` are those that differ from vLLM's own."""

    input_modalities: tuple[str, ...] = ("text",)
    sampling_defaults: Mapping[str, float] = field(default_factory=dict)


def abilities(
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    flag: Mapping[str, str | None],
    *,
    is_text_only: bool = False,
) -> Abilities:
    """Return what a model takes and how it samples.

    Args:
        config: its config.json.
        generation: its generation_config.json; empty where it has none, or that is not known.
        flag: the values of vLLM's flags, by name, that the user gave.
        is_text_only: whether vLLM was told to leave its encoders out.
    """
    takes_images = not is_text_only and _describes_vision(config) and not _are_images_off(flag)
    source = flag.get("generation-config") or "auto"
    sampling = dict(generation) if source == "auto" else {}
    sampling |= _json_object(flag.get("override-generation-config"))
    return Abilities(
        ("text", "image") if takes_images else ("text",),
        {
            name: value
            for key, name in _SAMPLING.items()
            if isinstance(value := sampling.get(key), int | float) and not isinstance(value, bool)
        },
    )


def _describes_vision(config: Mapping[str, Any]) -> bool:
    parts = (config, config.get("thinker_config"))  # Qwen-Omni keeps its encoders there
    return any(isinstance(part, Mapping) and part.get(key) for part in parts for key in _VISION_KEYS)


def _are_images_off(flag: Mapping[str, str | None]) -> bool:
    limit = _json_object(flag.get("limit-mm-per-prompt")).get("image")
    return (limit.get("count") if isinstance(limit, Mapping) else limit) == 0


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
