"""Which requests the Rust frontend serves: its routes, and fields that only the Python frontend serves.

Data alone. tools/frontend_routes.py holds it to what is known of vLLM's versions (tests/data/frontends), and
says what a new one has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"

_CHAT: Final = frozenset((CHAT,))
_COMPLETIONS: Final = frozenset((COMPLETIONS,))
RUST_ROUTES: Final = frozenset((CHAT, COMPLETIONS))
"""Routes whose requests the Rust frontend serves faster; all others are for the Python frontend."""

PYTHON_HEADERS: Final = frozenset((b"endpoint-load-metrics-format",))
"""Headers that the Python frontend answers with headers of its own, and the Rust frontend ignores."""


Plain = bool | float | str | tuple[()] | None
"""A value that JSON spells in few ways; `()` is an empty list."""


@dataclass(frozen=True)
class PythonField:
    """A top-level field of a body that the Rust frontend refuses, ignores or understands otherwise."""

    routes: frozenset[str] = RUST_ROUTES
    """Where; on the other routes both frontends serve it."""
    same: tuple[Plain, ...] = (None, False)
    """Values with which both frontends do the same: what clients write out that send every field."""
    null_alone: bool = False
    """Whether `null` alone decides: the Python frontend refuses it, the Rust frontend takes the default."""
    differs: str = ""
    """What the Rust frontend does otherwise with it, where it answers (docs/operate/frontends.md)."""


_LOGPROBS: Final = "tokens that are half a character are another text"
_SCHEMA: Final = "a schema that cannot be compiled ends in an empty answer"

PYTHON_FIELDS: Final = {
    "n": PythonField(same=(1,), differs="0 and null count as 1"),
    "add_generation_prompt": PythonField(_CHAT, same=(True,), differs="the answer has another role"),
    "chat_template": PythonField(_CHAT, same=(None,), differs="it is used; the Python frontend refuses it"),
    "continue_final_message": PythonField(_CHAT, differs="alone it is enough"),
    "echo": PythonField(differs="prompt_token_ids and prompt_logprobs are others"),
    "logprobs": PythonField(differs=_LOGPROBS),
    "prompt_logprobs": PythonField(same=(None,), differs="special tokens have no text"),
    "response_format": PythonField(same=(None,), differs=_SCHEMA),
    "structured_outputs": PythonField(same=(None,), differs=_SCHEMA),
    "thinking_token_budget": PythonField(same=(None,), differs="it needs no reasoning parser"),
    "tools": PythonField(_CHAT, same=(None,), differs="the prompt and the calls are others"),
    "prompt": PythonField(_COMPLETIONS, same=()),  # lists of prompts alone
    "bad_words": PythonField(same=((),), differs="an empty word and null are taken"),
    "length_penalty": PythonField(same=(1,)),
    "media_io_kwargs": PythonField(_CHAT, same=(None,)),
    "min_tokens": PythonField(null_alone=True),
    "mm_payload": PythonField(same=()),
    "mm_processor_kwargs": PythonField(_CHAT, same=(None,)),
    "priority": PythonField(null_alone=True),
    "prompt_embeds": PythonField(_COMPLETIONS, same=(None,)),  # 0.32 ignores it, 0.33 refuses it
    "request_id": PythonField(null_alone=True),
    "return_mm_kwargs": PythonField(same=(None,)),
    "return_prompt_text": PythonField(_CHAT),  # 0.32 ignores it, 0.33 refuses it
    "return_token_offsets": PythonField(),
    "return_weight_versions": PythonField(same=(False,)),
    "routed_experts_prompt_start": PythonField(same=(0,)),
    "spaces_between_special_tokens": PythonField(same=(None, True)),
    "suffix": PythonField(_COMPLETIONS, same=(None,)),
    "use_beam_search": PythonField(),
}
"""By name. Fields that neither frontend knows decide nothing: both ignore them."""
