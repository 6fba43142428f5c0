"""Tool and reasoning parsers: what the settings, vLLM's flags, its version and the model make of them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllm_engine.config.environment import Environment
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.settings import load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.models.engine_scripts.chat_format import ChatFormat
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_command import build_command
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.parser_choice import check_parsers
from vllm_engine.plan.preflight import Preflight
from vllm_engine.plan.resolve import Planner
from vllm_engine.plan.variable_checks import check_flags
from vllm_engine.system.device import Device

VLLM = Installation(
    Path("python"), "3.11.7", "vllm", "0.32.0", "cpu", None,
    tool_parsers=("hermes", "llama3_json", "mistral"), reasoning_parsers=("deepseek_r1", "qwen3"),
)  # fmt: skip
TOOLS = """{% for tool in tools %}{% endfor %}<tool_call>{"name": <function-name>}</tool_call>"""
QWEN3 = ChatFormat(TOOLS + "{% if enable_thinking is false %}<think>{% endif %}")
PLAIN = ChatFormat("{{ messages }}")


def preflight(installation: Installation = VLLM, **variables: str) -> Preflight:
    environment = Environment({"MODEL_ID": "org/name", **variables}, {})
    settings = load_settings(environment)
    flags = check_flags(settings, environment.merged, FlagCatalogue.load("0.32"))
    assert not flags.problems
    device = Device("cpu", "a CPU", supports_bfloat16=True, cores=2)
    return Preflight(settings, environment, installation, device, tuple(flags.argv))


def settled(
    chat: ChatFormat, installation: Installation = VLLM, **variables: str
) -> tuple[list[str], dict[str, str]]:
    """Return the parsers' arguments as vLLM gets them, and the settings with their sources."""
    found = preflight(installation, **variables)
    model = Model("org/name", None, {"architectures": ["Qwen3ForCausalLM"]}, chat=chat)
    plan = Planner(found, model).plan()
    argv = build_command(
        found.settings, installation, plan, socket=Path("s"), environ=variables, flags=found.flags
    ).argv
    at = [i for i, word in enumerate(argv) if "parser" in word or "auto-tool" in word]
    words = [word for i in at for word in argv[i : i + 1 + ("parser" in argv[i] and "=" not in argv[i])]]
    return words, {key: f"{choice.value}: {choice.source}" for key, choice in plan.choices.items()}


@pytest.mark.parametrize(
    ("chat", "variables", "arguments"),
    [
        (QWEN3, {}, "--tool-call-parser hermes --reasoning-parser qwen3 --enable-auto-tool-choice"),
        (PLAIN, {}, ""),
        (QWEN3, {"TOOL_CALL_PARSER": "none"}, "--reasoning-parser qwen3"),
        (QWEN3, {"REASONING_PARSER": "None"}, "--tool-call-parser hermes --enable-auto-tool-choice"),
        (PLAIN, {"TOOL_CALL_PARSER": "mistral"}, "--tool-call-parser mistral --enable-auto-tool-choice"),
        (QWEN3, {"ENABLE_AUTO_TOOL_CHOICE": "0"}, "--reasoning-parser qwen3 --no-enable-auto-tool-choice"),
        # As everyone had to before.
        (PLAIN, {"ENABLE_AUTO_TOOL_CHOICE": "1", "TOOL_CALL_PARSER": "hermes"},
         "--tool-call-parser hermes --enable-auto-tool-choice"),
        # Raw flags go through as they are, and once.
        (QWEN3, {"VLLM_EXTRA_ARGS": "--tool-call-parser=mistral --reasoning_parser qwen3"},
         "--enable-auto-tool-choice --tool-call-parser=mistral --reasoning_parser qwen3"),
        # The template that vLLM uses is the one that counts.
        (PLAIN, {"CHAT_TEMPLATE": QWEN3.template, "REASONING_PARSER": "none"},
         "--tool-call-parser hermes --enable-auto-tool-choice"),
        (QWEN3, {"ENGINE_FRONTEND": "rust"}, ""),
        (QWEN3, {"ENGINE_FRONTEND": "rust", "TOOL_CALL_PARSER": "none"}, "--tool-call-parser none"),
        (QWEN3, {"ENGINE_FRONTEND": "rust", "TOOL_CALL_PARSER": "hermes"}, "--tool-call-parser hermes"),
    ],
)  # fmt: skip
def test_arguments(chat: ChatFormat, variables: dict[str, str], arguments: str) -> None:
    assert shlex.join(settled(chat, VLLM, **variables)[0]) == arguments


def test_sources() -> None:
    """What is logged and listed says why."""
    cases: tuple[tuple[dict[str, str], str, str], ...] = (
        ({}, "TOOL_CALL_PARSER", "hermes: auto: Hermes, Qwen2.5 and Qwen3, by chat template"),
        ({}, "REASONING_PARSER", "qwen3: auto: Qwen3, by architecture and chat template"),
        ({}, "ENABLE_AUTO_TOOL_CHOICE", "1: follows TOOL_CALL_PARSER=hermes"),
        ({"TOOL_CALL_PARSER": "none"}, "TOOL_CALL_PARSER", "none: environment"),
        ({"ENABLE_AUTO_TOOL_CHOICE": "0"}, "TOOL_CALL_PARSER", "none: ENABLE_AUTO_TOOL_CHOICE=0"),
        ({"ENGINE_FRONTEND": "rust"}, "REASONING_PARSER",
         "auto: the Rust frontend chooses it by the model's name"),
    )  # fmt: skip
    for variables, key, said in cases:
        assert settled(QWEN3, VLLM, **variables)[1][key] == said
    old = replace(VLLM, version="0.9", tool_parsers=(), reasoning_parsers=())
    assert settled(QWEN3, old)[1]["TOOL_CALL_PARSER"] == "none: auto: the parsers of vLLM 0.9 are not known"
    assert settled(QWEN3, old)[0] == []


def test_refused_before_anything_starts() -> None:
    """A name that vLLM does not know, with those that it does; a switch without a parser."""

    def told(**variables: Any) -> list[str]:
        found = preflight(**variables)
        return [str(problem) for problem in check_parsers(found.settings, VLLM, found.flags)]

    [said] = told(TOOL_CALL_PARSER="hermies")
    assert "hermies" in said
    assert said.endswith("vLLM 0.32.0 has no such parser; did you mean hermes?")
    [said] = told(TOOL_CALL_PARSER="nonsense")
    assert said.endswith("has no such parser; there is auto, none, hermes, llama3_json, mistral")
    [said] = told(REASONING_PARSER="x")
    assert "there is auto, none, deepseek_r1, qwen3" in said
    [said] = told(VLLM_EXTRA_ARGS="--reasoning-parser auto")
    assert "VLLM_EXTRA_ARGS" in said
    assert told(TOOL_CALL_PARSER="mine", TOOL_PARSER_PLUGIN="/mine.py") == []
    assert told(TOOL_CALL_PARSER="llama3_json", REASONING_PARSER="auto") == []
    [said] = told(ENGINE_FRONTEND="rust", REASONING_PARSER="none")
    assert "leave it unset, or set ENGINE_FRONTEND=python" in said
    with pytest.raises(SettingsError, match="needs a parser, and TOOL_CALL_PARSER=none"):
        settled(PLAIN, ENABLE_AUTO_TOOL_CHOICE="1")
    with pytest.raises(SettingsError, match="needs a parser, and TOOL_CALL_PARSER=auto"):
        settled(QWEN3, ENABLE_AUTO_TOOL_CHOICE="1", ENGINE_FRONTEND="rust")
    unseen = Planner(preflight(ENABLE_AUTO_TOOL_CHOICE="1"), Model("org/name")).plan()
    assert unseen.tool_call_parser.value == "none", "as `settings` plans before it has asked the hub"
