"""What a model's files and vLLM's flags say of the images that it takes and of its sampling."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_engine.models.abilities import Abilities, abilities

VISION: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "vision_config": {"depth": 32},
}
GENERATION = {"temperature": 0.2, "top_k": 20, "max_new_tokens": 512, "do_sample": True, "eos_token_id": 2}
DEFAULTS = {"temperature": 0.2, "top_k": 20, "max_tokens": 512}

IMAGES: list[tuple[dict[str, Any], dict[str, str | None], bool, bool]] = [
    (VISION, {}, False, True),
    ({"architectures": ["Qwen2ForCausalLM"]}, {}, False, False),
    ({"architectures": ["QWenLMHeadModel"], "visual": {"layers": 48}}, {}, False, True),
    ({"architectures": ["Qwen2_5OmniModel"], "thinker_config": VISION}, {}, False, True),
    ({"architectures": ["WhisperForConditionalGeneration"], "vision_config": None}, {}, False, False),
    (VISION, {}, True, False),
    (VISION, {"limit-mm-per-prompt": '{"image": 0}'}, False, False),
    (VISION, {"limit-mm-per-prompt": '{"image": {"count": 0}}'}, False, False),
    (VISION, {"limit-mm-per-prompt": '{"image": 4}'}, False, True),
    (VISION, {"limit-mm-per-prompt": "image=0"}, False, True),
]


@pytest.mark.parametrize(("config", "flags", "is_text_only", "expected"), IMAGES)
def test_images(
    config: dict[str, Any], flags: dict[str, str | None], is_text_only: bool, expected: bool
) -> None:
    """Its configuration describes a vision encoder, and no flag of vLLM's turns it off."""
    found = abilities(config, {}, flags, is_text_only=is_text_only)
    assert found == Abilities(("text", "image") if expected else ("text",))


SAMPLING: list[tuple[dict[str, str | None], dict[str, float]]] = [
    ({}, DEFAULTS),
    ({"generation-config": "auto"}, DEFAULTS),
    ({"generation-config": "vllm"}, {}),
    ({"override-generation-config": '{"temperature": 0.7}'}, DEFAULTS | {"temperature": 0.7}),
    ({"generation-config": "vllm", "override-generation-config": '{"top_p": 0.9}'}, {"top_p": 0.9}),
    ({"override-generation-config": "{"}, DEFAULTS),
]


@pytest.mark.parametrize(("flags", "expected"), SAMPLING)
def test_sampling(flags: dict[str, str | None], expected: dict[str, float]) -> None:
    """It is the model's own unless vLLM's flags say otherwise, by the names that requests use."""
    assert abilities({}, GENERATION, flags).sampling_defaults == expected
