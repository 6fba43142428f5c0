"""Which frontend gets a request, and what is learnt from refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from vllm_engine.engine.engine_state import EngineStatus, Frontend
from vllm_engine.gateway.body.body_fields import UNUSUAL_JSON, read_fields
from vllm_engine.gateway.body.body_shape import shape_of
from vllm_engine.gateway.body.frontend_fields import CHAT, COMPLETIONS, PYTHON_FIELDS
from vllm_engine.gateway.policy.routes import ROUTES
from vllm_engine.gateway.proxy.frontend_choice import Asked, Choice, FrontendChooser
from vllm_engine.gateway.proxy.learned_shapes import (
    FIRST_TRIAL_SECONDS,
    FORGOTTEN_SECONDS,
    LONGEST_TRIAL_SECONDS,
    MIXED_SECONDS,
    MOST_SHAPES,
    LearnedShapes,
)
from vllm_engine.models.abilities import Abilities

BOTH = EngineStatus(frontends=(Frontend.PYTHON, Frontend.RUST))
MESSAGES = [{"role": "user", "content": "hi"}]
ROUTED = {
    "stream": False, "logprobs": False, "no_stop_trim": False, "ignore_eos": False, "continue_final_message": False,
    "skip_special_tokens": True, "separate_reasoning": True, "stream_reasoning": True, "return_hidden_states": False,
    "include_reasoning": True,
}  # fmt: skip
"""What vllm-router 0.1.17 adds to every body."""


def asked(route: str, body: bytes | dict[str, Any], key: str | None = None, **headers: str) -> Asked:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Asked(route, key, pairs, read_fields(data, with_python_fields=True), data)


def reason(route: str, body: bytes | dict[str, Any], **headers: str) -> str | None:
    choice = FrontendChooser().choose(asked(route, body, **headers), BOTH)
    assert (choice.frontend is Frontend.RUST) is (choice.reason is None)
    return choice.reason


def test_the_route_decides_first() -> None:
    """Only what the Rust frontend serves faster goes there; with one frontend there is nothing to choose."""
    to_rust = {route.template for route in ROUTES if reason(route.template, {"messages": MESSAGES}) is None}
    assert to_rust == {CHAT, COMPLETIONS}
    assert reason("/unknown", {}) == "route"
    for frontends, one in (((), Frontend.PYTHON), ((Frontend.RUST,), Frontend.RUST)):
        choice = FrontendChooser().choose(asked("/v1/responses", {"n": 2}), EngineStatus(frontends=frontends))
        assert choice == Choice(one)


def test_fields_that_the_rust_frontend_refuses_or_ignores() -> None:
    for route, given, expected in (
        (CHAT, {"n": 2}, "n"), (COMPLETIONS, {"n": 2}, "n"), (CHAT, {"n": 1, "stream": True}, None),
        (COMPLETIONS, {"prompt": ["a", "b"]}, "prompt"), (COMPLETIONS, {"prompt": [[1, 2], [3]]}, "prompt"),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, None), (COMPLETIONS, {"prompt": "[1"}, None), (CHAT, {"prompt": ["a"]}, None),
        (COMPLETIONS, {"bad_words": ["a"]}, "bad_words"), (CHAT, {"bad_words": []}, None),
        (CHAT, {"length_penalty": 0.5}, "length_penalty"), (CHAT, {"length_penalty": 1.0}, None),
        (CHAT, {"use_beam_search": True}, "use_beam_search"), (CHAT, {"use_beam_search": False}, None),
        (CHAT, {"spaces_between_special_tokens": False}, "spaces_between_special_tokens"),
        (CHAT, {"spaces_between_special_tokens": True}, None), (CHAT, {"routed_experts_prompt_start": 0}, None),
        (CHAT, {"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"), (CHAT, {"suffix": "x"}, None),
        (COMPLETIONS, {"suffix": "x"}, "suffix"), (COMPLETIONS, {"suffix": None}, None),
        (CHAT, {"mm_payload": "a text longer than a flag"}, "mm_payload"),
        (CHAT, {"metadata": {"n": 2, "mm_payload": "none"}}, None),
        (CHAT, ROUTED, None), (COMPLETIONS, {**ROUTED, "prompt": "hi", "echo": False}, None),
    ):  # fmt: skip
        assert reason(route, {"messages": MESSAGES, **given}) == expected, given
    # JSON that only Python's reader takes.
    for body in (b'{"messages": [], "temperature": NaN}', b"\xef\xbb\xbf{}", b"{", b""):
        assert reason(CHAT, body) == UNUSUAL_JSON
    assert reason(CHAT, {"messages": MESSAGES}, endpoint_load_metrics_format="JSON") == "header"
    assert reason(CHAT, {"messages": MESSAGES}, user_agent="x") is None
    # A body that was read while one frontend ran is not sent where nobody has looked.
    plain = Asked(CHAT, fields=read_fields(b"{}"))
    assert FrontendChooser().choose(plain, BOTH).reason == "not_read"


def test_what_the_rust_frontend_understands_otherwise() -> None:
    """It would answer 200, and not what the Python frontend answers."""
    text = {"type": "text", "text": "a"}
    tool = {"type": "function", "function": {"name": "f"}}
    for route, given, expected in (
        (CHAT, {"n": 0}, "n"), (COMPLETIONS, {"n": None}, "n"),
        (CHAT, {"tools": [tool]}, "tools"), (CHAT, {"tools": []}, "tools"), (CHAT, {"tools": None}, None),
        (CHAT, {"tool_choice": "none"}, None), (CHAT, {"logprobs": True}, "logprobs"),
        (COMPLETIONS, {"logprobs": 0}, "logprobs"), (COMPLETIONS, {"logprobs": None}, None),
        (CHAT, {"echo": True}, "echo"), (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
        (CHAT, {"structured_outputs": {"choice": ["a"]}}, "structured_outputs"), (CHAT, {"chat_template": "x"}, "chat_template"),
        (CHAT, {"add_generation_prompt": False}, "add_generation_prompt"), (CHAT, {"add_generation_prompt": True}, None),
        (CHAT, {"continue_final_message": True}, "continue_final_message"),
        (CHAT, {"messages": [{"role": "developer", "content": "x"}, *MESSAGES]}, "developer"),
        (CHAT, {"messages": [{"role": "user", "content": '{"role": "developer"}'}]}, None),
        (CHAT, {"messages": [{"role": "user", "content": [text, text]}]}, "parts"),
        (CHAT, {"messages": [{"role": "user", "content": [text]}, *MESSAGES]}, None),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "parts"),
        (CHAT, {"messages": [*MESSAGES, {"role": "tool", "tool_call_id": "x", "content": "sunny"}]}, "tool_calls"),
        (CHAT, {"messages": [*MESSAGES, {"role": "assistant", "tool_calls": [{}]}]}, "tool_calls"),
        (CHAT, {"messages": [*MESSAGES, {"role": "assistant", "content": "x", "tool_calls": None}, *MESSAGES]}, None),
        (CHAT, {"messages": [{"role": "user", "content": [text]}] * 5000}, "parts"),
    ):  # fmt: skip
        assert reason(route, {"messages": MESSAGES, **given}) == expected, given
    for route in (CHAT, COMPLETIONS):
        for name in ("bad_words", "length_penalty", "min_tokens", "mm_payload", "priority", "request_id",
                     "return_weight_versions", "routed_experts_prompt_start"):  # fmt: skip
            assert reason(route, {name: None}) == name
        assert reason(route, {"bad_words": [""]}) == "bad_words"
        assert (
            reason(route, {"min_tokens": 0, "priority": 1, "request_id": "null or another id", "user": None})
            is None
        )
    assert reason(CHAT, {"add_generation_prompt": None}) == "add_generation_prompt"
    reasoning = replace(BOTH, has_reasoning_parser=True)
    for route, expected in ((CHAT, "reasoning_parser"), (COMPLETIONS, None)):
        assert FrontendChooser().choose(asked(route, {}), reasoning).reason == expected
    for name, expected in (("presence_penalty", "sampling_defaults"), ("temperature", None)):
        sampling = replace(BOTH, abilities=Abilities(sampling_defaults={name: 0.5}))
        assert FrontendChooser().choose(asked(COMPLETIONS, {}), sampling).reason == expected
    small = replace(BOTH, max_model_len=100)
    for name in ("max_tokens", "max_completion_tokens"):
        for most, expected in ((100, None), (101, "max_tokens"), ("many", None), (None, None), (-(10**9), None),
                               (10**8, "max_tokens"), (10**40, "max_tokens"), (1e30, "max_tokens")):  # fmt: skip
            one = asked(CHAT, {"messages": MESSAGES, name: most})
            assert FrontendChooser().choose(one, small).reason == expected
            assert FrontendChooser().choose(one, BOTH).reason is None
    for route, field in ((CHAT, "messages"), (COMPLETIONS, "prompt")):
        for size, expected in ((1000, None), (4000, "long_prompt")):
            value: Any = [{"role": "user", "content": "x" * size}] if route == CHAT else "x" * size
            assert FrontendChooser().choose(asked(route, {field: value}), small).reason == expected


def test_every_field_of_the_table_is_looked_for() -> None:
    """In every value that is not one of those with which both frontends do the same."""
    for name, rule in PYTHON_FIELDS.items():
        for route in (CHAT, COMPLETIONS):
            for value in (None,) if rule.null_alone else ([["x"]], 7):
                if name in {"n", "prompt"} and isinstance(value, list) is (name == "n"):
                    continue  # refused by both
                assert reason(route, {name: value}) == (name if route in rule.routes else None)
            for same in (7, "x") if rule.null_alone else rule.same:
                assert reason(route, {name: same}) is None


def test_shapes_tell_kinds_apart_and_not_values() -> None:
    first = {"messages": MESSAGES, "temperature": 0.5, "stop": ["a"], "tool_choice": "auto"}
    same = {"tool_choice": "none", "stop": [], "temperature": 7, "messages": [*MESSAGES, *MESSAGES]}
    shape = shape_of(json.dumps(first).encode())
    assert shape is not None
    assert shape == shape_of(json.dumps(same, indent=2).encode())
    changes: tuple[dict[str, Any], ...] = (
        {"stop": "a"}, {"temperature": None}, {"temperature": -1}, {"tool_choice": {}}, {"more": 1},
        {"messages": "hi"},
    )  # fmt: skip
    for change in changes:
        assert shape_of(json.dumps({**first, **change}).encode()) not in (None, shape), change
    for body in (b"", b"[]", b"{", b'{"a":"' + b"x" * 300_000 + b'"}',
                 b"{" + b",".join(b'"%d":1' % n for n in range(100)) + b"}"):  # fmt: skip
        assert shape_of(body) is None


class Taught:
    """A chooser with a clock of ours, and a Rust frontend that refuses what `is_refused` says."""

    def __init__(self) -> None:
        self.now = 100.0
        self.chooser = FrontendChooser(LearnedShapes(lambda: self.now))
        self.status = BOTH

    def ask(
        self, body: dict[str, Any], *, is_refused: bool, is_good: bool = True, key: str | None = None
    ) -> str | None:
        """Return why the Python frontend answered, if it did."""
        one = asked(CHAT, body, key)
        choice = self.chooser.choose(one, self.status)
        if choice.frontend is Frontend.PYTHON:
            return choice.reason
        refusal = "refused_400" if is_refused else None
        self.chooser.answered(one, choice, refusal, is_accepted=is_good)
        return refusal


def test_a_refusal_is_paid_once_and_tried_again_from_time_to_time() -> None:
    taught, body = Taught(), {"messages": MESSAGES, "temperature": 3}
    assert [taught.ask(body, is_refused=True) for _ in range(3)] == ["refused_400", "learned", "learned"]
    assert taught.ask({"messages": MESSAGES}, is_refused=False) is None
    refusals = 0
    for _ in range(1000):
        taught.now += 1
        refusals += taught.ask(body, is_refused=True) == "refused_400"
    assert refusals <= 6 + 1000 / LONGEST_TRIAL_SECONDS
    # Another start of the engine may be another engine.
    taught.status = EngineStatus(frontends=BOTH.frontends, starts=2)
    assert taught.ask(body, is_refused=True) == "refused_400"


def test_many_refused_at_once_teach_no_more_than_one() -> None:
    taught, body = Taught(), {"messages": MESSAGES}
    one = asked(CHAT, body)
    choice = taught.chooser.choose(one, BOTH)
    for _ in range(256):
        taught.chooser.answered(one, choice, "refused_400", is_accepted=True)
    taught.now += FIRST_TRIAL_SECONDS
    assert taught.ask(body, is_refused=False) is None


def test_one_clients_odd_values_do_not_slow_the_others_down() -> None:
    """Neither for long nor again and again; and those with another key not at all."""
    taught, good, odd = Taught(), {"temperature": 0.5}, {"temperature": 3}
    assert taught.ask(odd, is_refused=True, is_good=False) == "refused_400"
    assert taught.ask(good, is_refused=False) is None, "what both refuse teaches nothing"
    assert taught.ask(odd, is_refused=True) == "refused_400"
    assert taught.ask(good, is_refused=False, key="another") is None
    assert taught.ask(good, is_refused=False) == "learned"
    taught.now += FIRST_TRIAL_SECONDS
    for _ in range(int(MIXED_SECONDS) - 1):
        taught.now += 1
        assert taught.ask(good, is_refused=False) is None
        assert taught.ask(odd, is_refused=True) == "refused_400"
    taught.now += MIXED_SECONDS
    assert taught.ask(odd, is_refused=True) == "refused_400"
    assert taught.ask(odd, is_refused=True) == "learned"


def test_what_is_learnt_is_bounded_and_forgotten() -> None:
    now = 0.0
    learned = LearnedShapes(lambda: now)
    for shape in range(MOST_SHAPES + 1):
        learned.refused((None, CHAT, shape))
    assert not learned.is_refused((None, CHAT, 0))
    assert learned.is_refused((None, CHAT, 1))
    looked_at = (
        learned.may_know(None, CHAT),
        learned.may_know("another", CHAT),
        learned.may_know(None, COMPLETIONS),
    )
    assert looked_at == (True, False, False)
    learned.accepted((None, CHAT, 1))
    now = FORGOTTEN_SECONDS + 2 * FIRST_TRIAL_SECONDS
    for _ in range(MOST_SHAPES):
        learned.is_refused((None, CHAT, -1))
    assert not learned.may_know(None, CHAT)
