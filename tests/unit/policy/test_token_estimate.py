"""Estimated prompts: never nothing, soon right for the tokenizer, and hard to mislead."""

from __future__ import annotations

import pytest

from vllm_engine.gateway.body.body_fields import RequestFields
from vllm_engine.gateway.body.token_estimate import TokenEstimate


def test_first_guess() -> None:
    """Before anything is known a token is four bytes; token ids are counted, media are not."""
    estimate = TokenEstimate()
    assert estimate.prompt_tokens(RequestFields(text_bytes=4000)) == 1000
    assert estimate.prompt_tokens(RequestFields(text_bytes=1)) == 1
    assert estimate.prompt_tokens(RequestFields(token_ids=77)) == 77
    assert estimate.prompt_tokens(RequestFields()) == 0


@pytest.mark.parametrize("tokens_per_byte", [0.08, 0.2, 0.6])
def test_learns(tokens_per_byte: float) -> None:
    """After a hundred prompts that were told, the next is estimated as they were."""
    estimate = TokenEstimate()
    for _ in range(100):
        estimate.learn(RequestFields(text_bytes=5000), round(5000 * tokens_per_byte))
    assert estimate.prompt_tokens(RequestFields(text_bytes=100_000)) == pytest.approx(
        100_000 * tokens_per_byte, rel=0.1
    )


def test_is_not_misled() -> None:
    """Short prompts, token ids, images and text that is one letter over and over teach nothing."""
    estimate = TokenEstimate()
    for _ in range(100):
        estimate.learn(RequestFields(text_bytes=20), 40)
        estimate.learn(RequestFields(text_bytes=2000, token_ids=5), 1000)
        estimate.learn(RequestFields(text_bytes=2000), 9000)
        estimate.learn(RequestFields(text_bytes=2000), 3)
        estimate.learn(RequestFields(), 0)
    assert estimate.tokens_per_byte == 0.25
