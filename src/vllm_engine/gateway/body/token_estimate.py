"""How many tokens a prompt has, before the engine says so, and where it never does."""

from __future__ import annotations

from math import ceil
from typing import Final

from vllm_engine.gateway.body.body_fields import RequestFields

_FIRST_GUESS: Final = 0.25
"""Tokens in a byte of English, about; it is not long in use."""
_LATEST: Final = 32
"""How many of the latest prompts decide what is expected of the next."""
_LONG_ENOUGH: Final = 1024
"""Shorter prompts tell of the chat template rather than of the tokenizer."""
_FEWEST: Final = 1 / 16
_MOST: Final = 2 / 3
"""Tokens in a byte of any text. What is outside had an image beside it, or was made to mislead."""


class TokenEstimate:
    """Estimates prompts by the size of their text, at the rate of those whose tokens the engine told.

    There is one tokenizer, so all clients' prompts teach it. Images, audio and video count nothing, an
    earlier conversation that the engine has kept (`previous_response_id`) neither; token ids count one each.
    """

    def __init__(self) -> None:
        self.tokens_per_byte = _FIRST_GUESS

    def prompt_tokens(self, fields: RequestFields) -> int:
        """Return how many tokens a prompt has, about; 0 only for a request without one."""
        return fields.token_ids + ceil(fields.text_bytes * self.tokens_per_byte)

    def learn(self, fields: RequestFields, told: int) -> None:
        """Take note of how many tokens a prompt had."""
        if fields.token_ids or fields.text_bytes < _LONG_ENOUGH:
            return
        seen = told / fields.text_bytes
        if _FEWEST <= seen <= _MOST:
            self.tokens_per_byte += (seen - self.tokens_per_byte) / _LATEST
