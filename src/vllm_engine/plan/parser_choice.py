"""Which parsers vLLM gets for tool calls and reasoning: the user's, or those that fit the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_engine.config.settings import Settings
from vllm_engine.config.spelling import did_you_mean
from vllm_engine.errors import Problem
from vllm_engine.models.engine_scripts.chat_format import UNKNOWN
from vllm_engine.models.model_source import Model
from vllm_engine.models.parser_rules import Traits, Verdict, reasoning_parser, tool_parser
from vllm_engine.plan.engine_command import (
    OWN_FLAGS,
    REASONING_FLAG,
    TOOL_FLAG,
    flag_value,
    is_switched_on,
    mentioned_flags,
)
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.engine_plan import Choice

NONE = "none"
AUTO = "auto"
_SWITCH = "enable-auto-tool-choice"
_PLUGINS = {TOOL_FLAG: "tool-parser-plugin", REASONING_FLAG: "reasoning-parser-plugin"}


def check_parsers(settings: Settings, installation: Installation, flags: Sequence[str]) -> list[Problem]:
    """List the parsers that this vLLM does not have, which it would refuse only after its imports."""
    problems = []
    for flag, setting, known in (
        (TOOL_FLAG, settings.tool_call_parser, installation.tool_parsers),
        (REASONING_FLAG, settings.reasoning_parser, installation.reasoning_parsers),
    ):
        given = flag_value(flags, flag)
        key, name = (OWN_FLAGS[flag], setting) if given is None else ("VLLM_EXTRA_ARGS", given)
        ours = () if given is not None else (AUTO, NONE)
        if not known or name in (*ours, *known, "") or flag_value(flags, _PLUGINS[flag]):
            continue
        # All of them stand nowhere else, but are of no use beside the one that was meant.
        remedy = did_you_mean(name, names := (*ours, *sorted(known))) or f"there is {', '.join(names)}"
        problems.append(Problem(key, name, f"vLLM {installation.version} has no such parser; {remedy}"))
    if settings.engine_frontend == "rust" and settings.reasoning_parser == NONE:
        remedy = (
            "the Rust frontend takes one from the model's name; leave it unset, or set ENGINE_FRONTEND=python"
        )
        problems.append(Problem("REASONING_PARSER", NONE, remedy))
    return problems


def wants_a_parser(flags: Sequence[str], model: Model, tools: Choice) -> list[Problem]:
    """Refuse a switch with which vLLM would end after its imports, unless the model is not known yet."""
    is_seen = bool(model.config) or model.chat != UNKNOWN
    if tools.value not in (NONE, AUTO) or not is_switched_on(flags, _SWITCH) or not is_seen:
        return []
    remedy = (
        f"needs a parser, and TOOL_CALL_PARSER={tools.value} ({tools.source}); name one there, or unset this"
    )
    return [Problem("ENABLE_AUTO_TOOL_CHOICE", "1", remedy)]


class ParserChoice:
    """Chooses both parsers for one model."""

    def __init__(
        self,
        settings: Settings,
        installation: Installation,
        flags: Sequence[str],
        model: Model,
        source: Callable[[str], str | None],
    ) -> None:
        """Take what the choice depends on; `source` tells where a variable comes from."""
        self._settings, self._installation, self._flags = settings, installation, flags
        self._model, self._source = model, source

    def tools(self) -> Choice:
        """Return the parser of tool calls, or `none`."""
        asked = self._settings.tool_call_parser
        if asked == AUTO and self._is_switched_off():
            return Choice(NONE, "ENABLE_AUTO_TOOL_CHOICE=0")
        return self._choice(TOOL_FLAG, asked, self._installation.tool_parsers, tool_parser)

    def reasoning(self) -> Choice:
        """Return the parser of reasoning, or `none`."""
        asked = self._settings.reasoning_parser
        return self._choice(REASONING_FLAG, asked, self._installation.reasoning_parsers, reasoning_parser)

    def auto_tool_choice(self, tools: Choice) -> Choice | None:
        """Return whether models may call tools by themselves; None where the user or the frontend says so."""
        if self._settings.engine_frontend == "rust" or _SWITCH in mentioned_flags(self._flags):
            return None
        if tools.value == NONE:
            return None
        return Choice("1", f"follows TOOL_CALL_PARSER={tools.value}")

    def _choice(
        self,
        flag: str,
        asked: str,
        known: Sequence[str],
        choose: Callable[[Traits, Sequence[str]], Verdict],
    ) -> Choice:
        given = flag_value(self._flags, flag)
        if given is not None:
            return Choice(given, "VLLM_EXTRA_ARGS")
        if asked != AUTO:
            return Choice(asked, self._source(OWN_FLAGS[flag]) or "default")
        if self._settings.engine_frontend == "rust":
            return Choice(AUTO, "the Rust frontend chooses it by the model's name")
        if not known:
            return Choice(NONE, f"auto: the parsers of vLLM {self._installation.version} are not known")
        verdict = choose(self._traits(), known)
        return Choice(verdict.parser, f"auto: {verdict.why}")

    def _is_switched_off(self) -> bool:
        return _SWITCH in mentioned_flags(self._flags) and not is_switched_on(self._flags, _SWITCH)

    def _traits(self) -> Traits:
        model, chat = self._model, self._model.chat
        if (template := flag_value(self._flags, "chat-template")) is not None:
            chat = chat._replace(template=_template(template))
        named = model.config.get("architectures")
        architectures = tuple(map(str, named)) if isinstance(named, list) else ()
        return Traits(Path(self._settings.model_id).name, architectures, chat)


def _template(given: str) -> str:
    """Return the text of vLLM's `--chat-template`: a file's, or the words themselves."""
    try:
        return Path(given).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return given
