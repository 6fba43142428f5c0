"""Which frontend gets a request: by its route, its fields, and what was learnt from requests like it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from vllm_engine.engine.engine_state import EngineStatus, Frontend
from vllm_engine.gateway.body.body_fields import RequestFields
from vllm_engine.gateway.body.body_shape import shape_of
from vllm_engine.gateway.body.frontend_fields import CHAT, PYTHON_FIELDS, PYTHON_HEADERS, RUST_ROUTES
from vllm_engine.gateway.proxy.learned_shapes import Key, LearnedShapes

ROUTE: Final = "route"
HEADER: Final = "header"
LEARNED: Final = "learned"
MAX_TOKENS: Final = "max_tokens"
"""More than the model's context: the Python frontend refuses it, the Rust frontend takes what there is."""
REASONING: Final = "reasoning_parser"
"""The two take reasoning apart differently: what is cut before its end is content for the Rust frontend."""
DEFAULTS: Final = "sampling_defaults"
_PYTHON_DEFAULTS: Final = frozenset(("presence_penalty", "frequency_penalty"))
"""What the Rust frontend of 0.32 does not take from a model's generation_config.json; 0.33 does."""
LONG_PROMPT: Final = "long_prompt"
"""Most likely more than the context: the Python frontend refuses it by its length, the Rust frontend after
seconds of tokenizing."""
_MOST_BYTES_PER_TOKEN: Final = 32
EMPTY: Final = "empty_answer"
"""A whole chat answer without text: the Python frontend says `""`, on which clients count, the Rust frontend
`null`."""
NOT_READ: Final = "not_read"
"""The body was read while the Python frontend ran alone."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A frontend for one request."""

    frontend: Frontend
    reason: str | None = None
    """Why not the Rust frontend, where both run."""
    may_fall_back: bool = False
    """Whether the Python frontend is asked where this one refuses."""


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What of a request decides."""

    route: str
    key: str | None = None
    """The API key's name."""
    headers: Iterable[tuple[bytes, bytes]] = ()
    fields: RequestFields = RequestFields()
    body: bytes | bytearray = b""


_ONLY: Final = {frontend: Choice(frontend) for frontend in Frontend}
_RUST: Final = Choice(Frontend.RUST, may_fall_back=True)


class FrontendChooser:
    """Chooses for each request, and learns from the answers."""

    def __init__(self, learned: LearnedShapes | None = None) -> None:
        self._learned = learned or LearnedShapes()
        self._start = 0

    def choose(self, asked: Asked, status: EngineStatus) -> Choice:
        """Return the frontend that is to have the request first, of those that run."""
        if len(status.frontends) < 2:
            return _ONLY[status.frontends[0] if status.frontends else Frontend.PYTHON]
        if status.starts != self._start:
            self._start = status.starts
            self._learned.clear()
        reason = _python_reason(asked, status)
        if reason is None and self._learned.may_know(asked.key, asked.route):
            key = _learned_key(asked)
            reason = LEARNED if key is not None and self._learned.is_refused(key) else None
        return _RUST if reason is None else Choice(Frontend.PYTHON, reason)

    def answered(self, asked: Asked, choice: Choice, refusal: str | None, *, is_accepted: bool) -> None:
        """Learn from an answer of a request that the Rust frontend had first.

        `refusal`: why that frontend refused it, if it did; `is_accepted`: whether the answer that counts is a
        good one. What both refuse is the client's fault and teaches nothing, nor does what the model says.
        """
        if not (choice.may_fall_back and is_accepted) or refusal == EMPTY:
            return
        if refusal is None and not self._learned.may_know(asked.key, asked.route):
            return
        key = _learned_key(asked)
        if key is not None:
            (self._learned.accepted if refusal is None else self._learned.refused)(key)


def _python_reason(asked: Asked, status: EngineStatus) -> str | None:
    if asked.route not in RUST_ROUTES:
        return ROUTE
    if status.has_reasoning_parser and asked.route == CHAT:
        return REASONING
    if not _PYTHON_DEFAULTS.isdisjoint(status.abilities.sampling_defaults):
        return DEFAULTS
    names = asked.fields.python_fields
    if names is None:
        return NOT_READ
    for name in names:
        rule = PYTHON_FIELDS.get(name)
        if rule is None or asked.route in rule.routes:
            return name
    for header, _ in asked.headers:
        if header in PYTHON_HEADERS:
            return HEADER
    return _beyond_the_context(asked.fields, status.max_model_len)


def _beyond_the_context(fields: RequestFields, max_model_len: int | None) -> str | None:
    if max_model_len is None:
        return None
    if fields.max_tokens > max_model_len:
        return MAX_TOKENS
    return LONG_PROMPT if fields.text_bytes > max_model_len * _MOST_BYTES_PER_TOKEN else None


def _learned_key(asked: Asked) -> Key | None:
    shape = shape_of(asked.body)
    return None if shape is None else (asked.key, asked.route, shape)
