"""The installed vLLM is as the launcher of both frontends uses it; else the failure says what has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tools.vllm_internals import differences
from vllm_engine.plan.engine_installation import inspect_installation
from vllm_engine.plan.frontends.rust_binary import refusal, unimplemented

pytestmark = pytest.mark.e2e


def test_the_inside(engine_python: Path) -> None:
    [site] = sorted(engine_python.parents[1].glob("lib/*/site-packages"))
    assert differences(site) == []


def test_the_rust_frontend_says_what_it_takes(engine_python: Path) -> None:
    """Its version, what it does not implement, and why it would not start; with all else it asks for the model."""
    installation = inspect_installation(engine_python)
    binary = installation.rust_frontend
    assert binary is not None, "no Rust frontend in the engine environment: run `make setup`"
    assert installation.rust_version == installation.version
    asked: tuple[tuple[dict[str, Any], str | None], ...] = (
        ({"dtype": "bfloat16", "served_model_name": ["a"], "tool_call_parser": "hermes"}, None),
        ({"middleware": ["a"], "hf_token": "b"}, "does not implement --hf-token, --middleware"),
        ({"reasoning_parser": "nobody"}, "reasoning parser `nobody` is not registered"),
        ({"max_logprobs": "many"}, 'invalid type: string "many"'),
    )
    for arguments, reason in asked:
        told = refusal(binary, arguments)
        assert (told is None) if reason is None else reason in (told or ""), arguments
    assert unimplemented(binary, ["max-num-seqs", "middleware", "tokenizer"]) == ("middleware", "tokenizer")
