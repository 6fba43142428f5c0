"""The parsers that real models get: by their own chat templates, which the package TRL ships unchanged."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from tests.e2e.conftest import CACHE_DIR
from tests.support.client_tools import python_with
from vllm_engine.models.engine_scripts.chat_format import ChatFormat
from vllm_engine.models.parser_rules import REASONING, TOOLS, Traits, reasoning_parser, tool_parser
from vllm_engine.plan.engine_installation import inspect_installation

pytestmark = pytest.mark.e2e

# Template, architecture, parser of tool calls, parser of reasoning.
FAMILIES = """
    qwen2_5                Qwen2ForCausalLM                   hermes       none
    qwen2_5_vl             Qwen2_5_VLForConditionalGeneration none         none
    qwen3                  Qwen3ForCausalLM                   hermes       qwen3
    qwen3                  Qwen3MoeForCausalLM                hermes       qwen3
    qwen3_instruct_2507    Qwen3ForCausalLM                   hermes       none
    qwen3_vl               Qwen3VLForConditionalGeneration    hermes       none
    qwen3_5_think          Qwen3_5ForConditionalGeneration    qwen3_coder  qwen3
    qwen3_5_nothink        Qwen3_5ForConditionalGeneration    qwen3_coder  none
    qwen3_6                Qwen3_5ForConditionalGeneration    qwen3_coder  qwen3
    qwen3_8                Qwen3_5ForConditionalGeneration    qwen3_coder  qwen3
    llama3                 LlamaForCausalLM                   none         none
    llama3_1               LlamaForCausalLM                   llama3_json  none
    llama3_2               LlamaForCausalLM                   llama3_json  none
    deepseek_r1_distill    Qwen2ForCausalLM                   none         deepseek_r1
    deepseek_r1_distill    LlamaForCausalLM                   none         deepseek_r1
    deepseekv3             DeepseekV3ForCausalLM              none         deepseek_r1
    gptoss                 GptOssForCausalLM                  openai       openai_gptoss
    glm4moe                Glm4MoeForCausalLM                 glm45        glm45
    nemotron_3_nano        NemotronHForCausalLM               qwen3_coder  nemotron_v3
    nemotron_3_super       NemotronHForCausalLM               qwen3_coder  nemotron_v3
    gemma                  Gemma2ForCausalLM                  none         none
    gemma3                 Gemma3ForConditionalGeneration     none         none
    gemma4_v5              Gemma4ForConditionalGeneration     gemma4       gemma4
    lfm2_v2                Lfm2ForCausalLM                    lfm2         none
    lfm2_2_5_v2            Lfm2MoeForCausalLM                 lfm2         none
    phi3_5                 Phi3ForCausalLM                    none         none
    cohere2                Cohere2ForCausalLM                 none         none
    idefics3               Idefics3ForConditionalGeneration   none         none
"""


@pytest.fixture(scope="module")
def templates() -> Path:
    """TRL's folder of them; deepseekv3 is that of R1."""
    python = python_with("trl", CACHE_DIR)
    version = f"python{sysconfig.get_python_version()}"
    return python.parents[1] / "lib" / version / "site-packages/trl/chat_templates"


def test_families(templates: Path, engine_python: Path) -> None:
    """Each family gets the parsers that vLLM's documentation names for it, none of which this vLLM lacks."""
    vllm = inspect_installation(engine_python)
    wrong = []
    for line in FAMILIES.strip().splitlines():
        name, architecture, *expected = line.split()
        traits = Traits(name, (architecture,), ChatFormat((templates / f"{name}.jinja").read_text("utf-8")))
        found = [
            tool_parser(traits, vllm.tool_parsers).parser,
            reasoning_parser(traits, vllm.reasoning_parsers).parser,
        ]
        if found != expected:
            wrong.append((line, found))
    assert wrong == []


def test_every_rule_is_for_a_parser_of_this_vllm(engine_python: Path) -> None:
    """A new vLLM that renames or drops one is noticed here."""
    vllm = inspect_installation(engine_python)
    assert {rule.parser for rule in TOOLS} - {*vllm.tool_parsers} == set()
    assert {rule.parser for rule in REASONING} - {*vllm.reasoning_parsers} == set()
