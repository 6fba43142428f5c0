"""Which parser each family of models gets, by fragments of its real chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_engine.models.engine_scripts.chat_format import UNKNOWN, ChatFormat, format_files, read_chat_format
from vllm_engine.models.parser_rules import REASONING, TOOLS, Traits, reasoning_parser, tool_parser

TOOL_NAMES = {rule.parser for rule in TOOLS}
REASONING_NAMES = {rule.parser for rule in REASONING}

# What of each family's template decides; the whole templates are in tests/e2e/test_chat_templates.py.
ASKS = "{%- if tools %}{%- for tool in tools %}{{ tool | tojson }}{%- endfor %}{%- endif %}"
HERMES = (
    ASKS
    + r"""{{- "</tools>\n\nreturn a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n"""
)
HERMES += r"""{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" }}"""
CODER = ASKS + r"{{- '<tool_call>\n<function=example>\n<parameter=one>\nvalue\n</parameter>\n</function>' }}"
GLM = ASKS + "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>"
LLAMA = (
    ASKS
    + """{{- '<|start_header_id|>' }}{{- 'Respond in the format {"name": function name, "parameters": '"""
)
LLAMA += "'dictionary of argument name and its value}.' }}"
DEEPSEEK = "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>'}}"
THINKS = r"{% if add_generation_prompt %}{{'<｜Assistant｜><think>\n'}}{% endif %}"
OPENED = r"{% if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{% endif %}"
SWITCH = (
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}"
)
SWITCH_ON = r"{%- if enable_thinking is defined and enable_thinking is true %}{{- '<think>\n' }}{%- endif %}"
THINK = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("name", "architecture", "template", "tools", "reasoning"),
    [
        ("Qwen2.5-3B-Instruct", "Qwen2ForCausalLM", HERMES, "hermes", "none"),
        ("Hermes-3-Llama-3.1-8B", "LlamaForCausalLM", HERMES, "hermes", "none"),
        ("SmolLM3-3B", "SmolLM3ForCausalLM", HERMES, "hermes", "none"),
        ("Qwen3-8B", "Qwen3ForCausalLM", HERMES + SWITCH, "hermes", "qwen3"),
        ("Qwen3-4B-Instruct-2507", "Qwen3ForCausalLM", HERMES, "hermes", "none"),
        ("Qwen3-4B-Thinking-2507", "Qwen3ForCausalLM", HERMES + THINKS, "hermes", "qwen3"),
        ("my-distilled-llama", "LlamaForCausalLM", HERMES + OPENED, "hermes", "none"),
        ("Qwen3-Coder-30B-A3B-Instruct", "Qwen3MoeForCausalLM", CODER, "qwen3_coder", "none"),
        ("Qwen3.5-9B", "Qwen3_5ForConditionalGeneration", CODER + SWITCH, "qwen3_coder", "qwen3"),
        ("Qwen3.5-0.8B", "Qwen3_5ForConditionalGeneration", CODER + SWITCH_ON, "qwen3_coder", "none"),
        ("Nemotron-3-Nano", "NemotronHForCausalLM", CODER + SWITCH, "qwen3_coder", "nemotron_v3"),
        ("MiMo-7B-RL", "MiMoForCausalLM", CODER + SWITCH, "mimo", "mimo"),
        ("Step-3.5-Flash", "Step3p5ForCausalLM", CODER + THINKS, "step3p5", "step3p5"),
        ("Llama-3.1-8B-Instruct", "LlamaForCausalLM", LLAMA, "llama3_json", "none"),
        ("Llama-3.2-11B-Vision-Instruct", "MllamaForConditionalGeneration", LLAMA, "llama3_json", "none"),
        ("Meta-Llama-3-8B-Instruct", "LlamaForCausalLM", "<|start_header_id|>", "none", "none"),
        ("Llama-4-Scout", "Llama4ForConditionalGeneration", ASKS + "[func_name1(a=1)]", "llama4_pythonic", "none"),
        ("Mistral-7B-Instruct-v0.3", "MistralForCausalLM", ASKS + "[TOOL_CALLS]", "mistral", "none"),
        ("Mistral-7B-Instruct-v0.2", "MistralForCausalLM", "[INST]", "none", "none"),
        ("DeepSeek-R1-Distill-Llama-8B", "LlamaForCausalLM", DEEPSEEK + THINKS, "none", "deepseek_r1"),
        ("DeepSeek-V3", "DeepseekV3ForCausalLM", DEEPSEEK + "```json", "none", "none"),
        ("DeepSeek-V3", "DeepseekV3ForCausalLM", ASKS + DEEPSEEK + "```json", "deepseek_v3", "none"),
        ("DeepSeek-V3.1", "DeepseekV3ForCausalLM", ASKS + DEEPSEEK + "{%- if not thinking -%}", "deepseek_v31", "deepseek_v3"),
        ("DeepSeek-V3.2", "DeepseekV32ForCausalLM", "", "deepseek_v32", "deepseek_v3"),
        ("DeepSeek-V4", "DeepseekV4ForCausalLM", "", "deepseek_v4", "deepseek_v4"),
        ("gpt-oss-20b", "GptOssForCausalLM", ASKS, "openai", "openai_gptoss"),
        ("GLM-4.5-Air", "Glm4MoeForCausalLM", GLM + "{{ '<think></think>' if not enable_thinking }}<think>", "glm45", "glm45"),
        ("GLM-4.7", "Glm4MoeForCausalLM", GLM.replace("\n<arg", "<arg"), "glm47", "none"),
        ("Kimi-K2-Instruct", "DeepseekV3ForCausalLM", ASKS + "<|tool_calls_section_begin|>", "kimi_k2", "none"),
        ("Kimi-K2-Thinking", "DeepseekV3ForCausalLM", ASKS + "<|tool_calls_section_begin|><think>", "kimi_k2", "kimi_k2"),
        ("MiniMax-M2", "MiniMaxM2ForCausalLM", ASKS + "<minimax:tool_call><think>", "minimax_m2", "minimax_m2"),
        ("Seed-OSS-36B-Instruct", "SeedOssForCausalLM", ASKS + "<seed:tool_call><seed:think>", "seed_oss", "seed_oss"),
        ("granite-3.3-8b-instruct", "GraniteForCausalLM", ASKS + "<|tool_call|>Here is my thought process", "granite", "granite"),
        ("granite-4.0-h-small", "GraniteMoeHybridForCausalLM", HERMES, "granite4", "none"),
        ("Phi-4-mini-instruct", "Phi3ForCausalLM", "{{ '<|tool|>' + message['tools'] }}", "none", "none"),
        ("Phi-4-mini-instruct", "Phi3ForCausalLM", ASKS + "functools[{", "phi4_mini_json", "none"),
        ("gemma-3-4b-it", "Gemma3ForConditionalGeneration", "<start_of_turn>", "none", "none"),
        ("gemma-4-E2B-it", "Gemma4ForConditionalGeneration", ASKS + "<|tool_call>call:<|channel>", "gemma4", "gemma4"),
        ("functiongemma-270m-it", "Gemma3ForCausalLM", ASKS + "<start_function_call>", "functiongemma", "none"),
        ("internlm2_5-7b-chat", "InternLM2ForCausalLM", ASKS + "<|action_start|><|plugin|>", "internlm", "none"),
        ("AI21-Jamba-1.5-Mini", "JambaForCausalLM", ASKS + "<tool_calls>", "jamba", "none"),
        ("Hunyuan-A13B-Instruct", "HunYuanMoEV1ForCausalLM", ASKS + "<tool_calls>" + SWITCH, "hunyuan_a13b", "hunyuan_a13b"),
        ("Olmo-3-7B-Think", "Olmo3ForCausalLM", ASKS + "<function_calls>" + THINKS, "olmo3", "olmo3"),
        ("LFM2-1.2B", "Lfm2ForCausalLM", ASKS + "List of tools: <|tool_list_start|>[", "lfm2", "none"),
        ("Nemotron-Nano-9B-v2", "NemotronHForCausalLM", ASKS + "<TOOLCALL>", "none", "none"),
        ("command-a", "Cohere2ForCausalLM", ASKS + "<|START_ACTION|>", "none", "none"),
        ("SmolLM2-135M-Instruct", "LlamaForCausalLM", "{% for message in messages %}<|im_start|>", "none", "none"),
    ],
)  # fmt: skip
def test_families(name: str, architecture: str, template: str, tools: str, reasoning: str) -> None:
    traits = Traits(name, (architecture,), ChatFormat(template))
    found = tool_parser(traits, TOOL_NAMES), reasoning_parser(traits, REASONING_NAMES)
    assert tuple(verdict.parser for verdict in found) == (tools, reasoning), found


def test_mistrals_own_tokenizer_needs_no_template() -> None:
    """vLLM takes it where it is there, and Mistral's newer repositories have no template at all."""
    own = ChatFormat("", None, True)
    for name, reasoning in (("Mistral-Small-3.2", "none"), ("Magistral-Small-2507", "mistral")):
        traits = Traits(name, ("Mistral3ForConditionalGeneration",), own)
        found = tool_parser(traits, TOOL_NAMES), reasoning_parser(traits, REASONING_NAMES)
        assert [verdict.parser for verdict in found] == ["mistral", reasoning]
    assert tool_parser(Traits("x", ("LlamaForCausalLM",), own), TOOL_NAMES).parser == "none"


def test_off_where_vllm_would_not_start() -> None:
    """A tokenizer that lists its tokens, but not those that the parser looks up; a parser that is not there."""
    llama, qwen = Traits("m", (), ChatFormat(LLAMA, ("<|eot_id|>",))), ("Qwen3ForCausalLM",)
    assert tool_parser(llama, TOOL_NAMES).parser == "none"
    opened = Traits("QwQ-32B", ("Qwen2ForCausalLM",), ChatFormat(HERMES + OPENED, THINK))
    assert reasoning_parser(opened, REASONING_NAMES).parser == "deepseek_r1"
    for tokens, parser in ((("<|im_end|>",), "none"), (THINK, "qwen3"), (None, "qwen3")):
        traits = Traits("m", qwen, ChatFormat(HERMES + SWITCH, tokens))
        assert reasoning_parser(traits, REASONING_NAMES).parser == parser
    assert tool_parser(Traits("m", qwen, ChatFormat(HERMES)), {"mistral"}).parser == "none"


def test_reasons() -> None:
    """What is logged: by what a model was recognised, or why nothing is on."""
    whys = [
        tool_parser(Traits("m", ("LlamaForCausalLM",), ChatFormat(template)), TOOL_NAMES).why
        for template in (HERMES, "", "{{ messages }}", ASKS)
    ]
    assert whys == [
        "Hermes, Qwen2.5 and Qwen3, by chat template",
        "the model's chat template is not known",
        "its chat template has no tools",
        "no known form of tool calls in its chat template",
    ]
    assert "by architecture and chat template" in tool_parser(
        Traits("m", ("JambaForCausalLM",), ChatFormat(ASKS + "<tool_calls>")), TOOL_NAMES
    ).why  # fmt: skip


def test_reading_a_folder(tmp_path: Path) -> None:
    """As Transformers does: the plain file first, then the two in JSON; several templates together."""
    assert read_chat_format(tmp_path / "gone") == read_chat_format(tmp_path) == UNKNOWN._replace(template="")

    def put(name: str, text: str | dict[str, object]) -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return read_chat_format(tmp_path).template.strip()

    named = [{"name": "default", "template": "one"}, {"name": "tool_use", "template": "two"}, {"name": "odd"}]
    assert put("tokenizer_config.json", "[no json") == ""
    assert put("tokenizer_config.json", {"chat_template": named}) == "one\ntwo"
    assert (
        put(
            "tokenizer_config.json",
            {"chat_template": "one", "added_tokens_decoder": {"7": {"content": "<x>"}}},
        )
        == "one"
    )
    assert put("chat_template.json", {"chat_template": "of processor"}) == "of processor"
    assert put("chat_template.jinja", "plain") == "plain"
    assert put("additional_chat_templates/tool_use.jinja", "more") == "plain\nmore"
    put("tekken.json", {})
    found = read_chat_format(tmp_path)
    assert (found.tokens, found.is_tekken) == (("<x>",), True)
    names = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert {*names} - {*format_files([*names, "config.json"])} == {"tekken.json"}


@pytest.mark.parametrize(
    "repeated",
    ["add_generation_prompt", "enable_thinking is false ", "<|start_header_id|>", "<｜tool▁calls▁begin｜>"],
)
def test_a_long_template_takes_linear_time(repeated: str) -> None:
    """A repository may hold any: searched from each of these, it would take minutes, in which nothing is answered."""
    traits = Traits("m", ("Qwen3ForCausalLM",), ChatFormat("{% for tool in tools %}" + repeated * 20_000))
    tool_parser(traits, TOOL_NAMES)
    assert reasoning_parser(traits, REASONING_NAMES).parser == "none"
