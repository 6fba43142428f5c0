"""How many tokens a prompt has, before the engine reports it, or where it never does."""

from __future__ import annotations

from math import ceil
from typing import Final

from vllm_engine.gateway.body.body_fields import RequestFields

_FIRST_GUESS: Final = 0.25
"""Tokens per byte of English, roughly; soon replaced."""
_LATEST: Final = 32
"""How many of the latest prompts the rate is averaged over."""
_LONG_ENOUGH: Final = 1024
"""Bytes; shorter prompts say more about the chat template than about the tokenizer."""
_FEWEST: Final = 1 / 16
_MOST: Final = 2 / 3
"""Tokens per byte of any text. A rate outside comes from an image beside the text, or is meant to mislead."""


class TokenEstimate:
    """Estimates prompts by the size of their text, at the rate of those whose tokens the engine has reported.

    There is one tokenizer, so all clients' prompts count for the rate. Images, audio, video and an earlier
    conversation that the engine has kept (`previous_response_id`) count nothing, token ids one each.
    """

    def __init__(self) -> None:
        self.tokens_per_byte = _FIRST_GUESS

    def prompt_tokens(self, fields: RequestFields) -> int:
        """Return roughly how many tokens a prompt has; 0 only for a request without one."""
        return fields.token_ids + ceil(fields.text_bytes * self.tokens_per_byte)

    def learn(self, fields: RequestFields, reported: int) -> None:
        """Learn how many tokens a prompt had."""
        if fields.token_ids or fields.text_bytes < _LONG_ENOUGH:
            return
        seen = reported / fields.text_bytes
        if _FEWEST <= seen <= _MOST:
            self.tokens_per_byte += (seen - self.tokens_per_byte) / _LATEST
