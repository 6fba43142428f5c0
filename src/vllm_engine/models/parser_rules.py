"""Which of vLLM's parsers fits a model: by architecture, chat template and name. Pure.

Read in vLLM 0.32: the markers are those that its parsers look for, the families those of its documentation.
A chat template tells most: it teaches the model the form in which the parser then looks for tool calls. A
wrong guess may keep vLLM from starting, or hide whole answers as reasoning: without a rule that fits, off.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vllm_engine.models.engine_scripts.chat_format import UNKNOWN, ChatFormat

_ASKS_FOR_TOOLS = re.compile(r"""(?<!['"\w.])tools(?!['"\w])""")
"""The variable in which vLLM hands a request's tools to the template; not the `message['tools']` of some."""


@dataclass(frozen=True)
class Traits:
    """What is known of a model."""

    name: str
    architectures: tuple[str, ...] = ()
    chat: ChatFormat = UNKNOWN


@dataclass(frozen=True)
class Rule:
    """A parser and what a model must have for it: all that is given.

    Attributes:
        family: the models that it is for, to be told.
        architecture: a pattern for the beginning of an architecture's name.
        template: a pattern to be found in the chat template.
        name: a pattern to be found in the model's name in lower case.
        tokens: what the parser looks up in the vocabulary; without them vLLM refuses to start.
        must_list: whether the files have to list the tokens: of unknown models nothing is assumed.
        renders_itself: whether vLLM writes the prompt without the chat template.
        is_tekken: whether Mistral's own tokenizer must be there.
    """

    parser: str
    family: str
    architecture: str = ""
    template: str = ""
    name: str = ""
    tokens: tuple[str, ...] = ()
    must_list: bool = False
    renders_itself: bool = False
    is_tekken: bool = False

    def fits(self, traits: Traits) -> bool:
        """Whether a model has all of it."""
        chat = traits.chat
        return (
            (not self.architecture or any(re.match(self.architecture, name) for name in traits.architectures))
            and (not self.template or re.search(self.template, chat.template, re.DOTALL) is not None)
            and (not self.name or re.search(self.name, traits.name.lower()) is not None)
            and (not self.is_tekken or chat.is_tekken)
            and (set(self.tokens) <= set(chat.tokens or ()) or (chat.tokens is None and not self.must_list))
        )

    @property
    def why(self) -> str:
        """Say by what the model was recognised."""
        by = {"architecture": self.architecture, "chat template": self.template, "name": self.name}
        named = [what for what, pattern in by.items() if pattern] + ["tokenizer"] * self.is_tekken
        return f"{self.family}, by {' and '.join(named)}"


def _then(first: str, second: str) -> str:
    """Return a pattern for one text after another, tried from the first place alone: it takes linear time."""
    return f"^(?>.*?{first}).*{second}"


_THINK = ("<think>", "</think>")
_CALLS = ("[TOOL_CALLS]",)
_BEGIN = "<｜tool▁calls▁begin｜>"
_MISTRAL = r"(Mistral|Ministral|Mixtral|Pixtral)"
_GLM = r"(Glm|GLM|ChatGLM)"
_JSON_IN_XML = r"<tool_call>.{0,40}\{\\?[\"']name\\?[\"']: ?<?function-name>?"
_CODER = _then("<tool_call>.{0,40}?<function=", "<parameter=")
_LLAMA = _then(r"<\|start_header_id\|>", 'function name, "parameters":')
_SWITCH = (
    r"^(?!.*(set enable_thinking = false|enable_thinking is defined and enable_thinking is true))"
    + _then("(?:enable_thinking is false|not enable_thinking(?! is)|else True)", "<think>")
)
"""A template whose reasoning is on unless a request switches it off. Where it is the other way round, vLLM's
parsers would take every answer for reasoning."""
_ENDIFS = r"(\{%-?\s*endif\s*-?%\}\s*)*$"
_OPENED = (
    r"add_generation_prompt(?:(?!enable_thinking|add_generation_prompt).)*<think>(\\n)?['\"]\s*-?\}\}\s*"
    + _ENDIFS
)
"""A template that begins every answer within the reasoning."""

TOOLS: Sequence[Rule] = (
    Rule("openai", "gpt-oss", architecture="GptOss", renders_itself=True),
    Rule("deepseek_v41", "DeepSeek-V4.1", architecture="DeepseekV41", renders_itself=True),
    Rule("deepseek_v4", "DeepSeek-V4", architecture="DeepseekV4For", renders_itself=True),
    Rule("deepseek_v32", "DeepSeek-V3.2", architecture="DeepseekV32", renders_itself=True),
    Rule("kimi_k3", "Kimi-K3", architecture="KimiK3", renders_itself=True),
    Rule("mistral", "Mistral", architecture=_MISTRAL, is_tekken=True, renders_itself=True, tokens=_CALLS),
    Rule("mistral", "Mistral", architecture=_MISTRAL, template=r"\[TOOL_CALLS\]", tokens=_CALLS),
    Rule("deepseek_v3", "DeepSeek-V3 and R1", template=_then(_BEGIN, "```json"), tokens=(_BEGIN,)),
    Rule("deepseek_v31", "DeepSeek-V3.1", template=_BEGIN, tokens=(_BEGIN,)),
    Rule("kimi_k2", "Kimi-K2", template=r"<\|tool_calls_section_begin\|>"),
    Rule("minimax_m2", "MiniMax-M2", architecture="MiniMaxM2", template="<minimax:tool_call>"),
    Rule("seed_oss", "Seed-OSS", template="<seed:tool_call>"),
    Rule("longcat", "LongCat", template="<longcat_tool_call>"),
    Rule("functiongemma", "FunctionGemma", template="<start_function_call>"),
    Rule("gemma4", "Gemma 4", architecture="Gemma4", template=r"<\|tool_call>"),
    Rule("apertus", "Apertus", architecture="Apertus", template=r"<\|tools_prefix\|>"),
    Rule("internlm", "InternLM2.5", architecture="InternLM2", template=r"<\|action_start\|>"),
    Rule("olmo3", "Olmo 3", architecture="Olmo3", template="<function_calls>"),
    Rule(
        "lfm2", "LFM2", architecture="Lfm2", template="List of tools",
        tokens=("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
    Rule("jamba", "Jamba", architecture="Jamba", template="<tool_calls>", tokens=("<tool_calls>",)),
    Rule("hunyuan_a13b", "Hunyuan-A13B", architecture="HunYuanMoEV1", template="<tool_calls>"),
    Rule("granite4", "Granite 4", architecture="Granite", template="<tool_call>"),
    Rule("granite", "Granite 3", architecture="Granite", template=r"<\|tool_call\|>"),
    Rule("phi4_mini_json", "Phi-4-mini", architecture="Phi3For", template="functools"),
    Rule("llama4_pythonic", "Llama 4", architecture="Llama4", template=r"\[func_name1\("),
    Rule("llama3_json", "Llama 3.1 and later", template=_LLAMA, tokens=("<|python_tag|>",)),
    Rule("step3", "Step3", architecture="Step3(VL|Text)", template="<｜tool_calls_begin｜>"),
    Rule("step3p5", "Step-3.5", architecture="Step3p", template="<function="),
    Rule("mimo", "MiMo", architecture="MiMo", template="<function="),
    Rule("glm47", "GLM-4.7 and later", architecture=_GLM, template=r"\{function-name\}<arg_key>"),
    Rule("glm45", "GLM-4.5 and 4.6", architecture=_GLM, template="<arg_key>"),
    Rule("qwen3_coder", "Qwen3-Coder, Qwen3.5 and Nemotron 3", template=_CODER),
    Rule("hermes", "Hermes, Qwen2.5 and Qwen3", template=_JSON_IN_XML),
)  # fmt: skip
"""The first that fits is taken."""

REASONING: Sequence[Rule] = (
    Rule("openai_gptoss", "gpt-oss", architecture="GptOss", renders_itself=True),
    Rule("deepseek_v41", "DeepSeek-V4.1", architecture="DeepseekV41", renders_itself=True),
    Rule("deepseek_v4", "DeepSeek-V4", architecture="DeepseekV4For", renders_itself=True),
    Rule("deepseek_v3", "DeepSeek-V3.2", architecture="DeepseekV32", renders_itself=True),
    Rule("kimi_k3", "Kimi-K3", architecture="KimiK3", renders_itself=True),
    Rule(
        "mistral", "Magistral and Ministral-Reasoning", architecture=_MISTRAL, is_tekken=True,
        name="magistral|reasoning",
    ),
    Rule("mistral", "Magistral", architecture=_MISTRAL, template=r"\[THINK\]", tokens=("[THINK]",)),
    Rule("deepseek_v3", "DeepSeek-V3.1", architecture="DeepseekV3", template="not thinking", tokens=_THINK),
    Rule("seed_oss", "Seed-OSS", architecture="SeedOss", template="<seed:think>", tokens=("<seed:think>",)),
    Rule("gemma4", "Gemma 4", architecture="Gemma4", template=r"<\|channel>"),
    Rule("minimax_m2", "MiniMax-M2", architecture="MiniMaxM2", template="<think>", tokens=_THINK),
    Rule("kimi_k2", "Kimi-K2-Thinking", name="kimi-k2-thinking", template="<think>"),
    Rule("granite", "Granite 3.2 and 3.3", architecture="Granite", template="Here is my thought process"),
    Rule("olmo3", "Olmo 3 Think", architecture="Olmo3", template=_OPENED),
    Rule("hunyuan_a13b", "Hunyuan-A13B", architecture="HunYuanMoEV1", template=_SWITCH),
    Rule("step3p5", "Step-3.5", architecture="Step3p", template="<think>", tokens=_THINK),
    Rule("step3", "Step3", architecture="Step3(VL|Text)", template="<think>", tokens=("</think>",)),
    Rule("mimo", "MiMo", architecture="MiMo", template=_SWITCH, tokens=_THINK),
    Rule("nemotron_v3", "Nemotron 3", architecture="NemotronH", template=_SWITCH, tokens=_THINK),
    Rule("glm45", "GLM-4.5 and later", architecture=_GLM, template=_SWITCH, tokens=_THINK),
    Rule("qwen3", "Qwen3", architecture="Qwen3", template=_SWITCH, tokens=_THINK),
    Rule("qwen3", "Qwen3-Thinking", architecture="Qwen3", template=_OPENED, tokens=_THINK),
    Rule("deepseek_r1", "DeepSeek-R1", template=f"^(?=.*<｜Assistant｜>).*{_OPENED}", tokens=_THINK),
    Rule("deepseek_r1", "models that begin with reasoning", template=_OPENED, tokens=_THINK, must_list=True),
)  # fmt: skip
"""The first that fits is taken."""


@dataclass(frozen=True)
class Verdict:
    """A parser's name, or `none`, and why."""

    parser: str
    why: str


def tool_parser(traits: Traits, known: Collection[str]) -> Verdict:
    """Choose the parser of a model's tool calls among those that are `known`."""
    asks = _ASKS_FOR_TOOLS.search(traits.chat.template) is not None
    for rule in TOOLS:
        if rule.parser in known and (asks or rule.renders_itself) and rule.fits(traits):
            return Verdict(rule.parser, rule.why)
    return Verdict("none", _why_not(traits, asks=asks, what="tool calls"))


def reasoning_parser(traits: Traits, known: Collection[str]) -> Verdict:
    """Choose the parser of a model's reasoning among those that are `known`."""
    for rule in REASONING:
        if rule.parser in known and rule.fits(traits):
            return Verdict(rule.parser, rule.why)
    return Verdict("none", _why_not(traits, asks=True, what="reasoning"))


def _why_not(traits: Traits, *, asks: bool, what: str) -> str:
    if not traits.chat.template:
        return "the model's chat template is not known"
    return f"no known form of {what} in its chat template" if asks else "its chat template has no tools"
