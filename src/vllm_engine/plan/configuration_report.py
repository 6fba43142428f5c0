"""The resolved configuration as rows: key, value, where it comes from; secrets masked."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import SecretStr

from vllm_engine.config.flags import mask
from vllm_engine.config.redaction import HIDDEN, masked
from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_command import OWN_FLAGS
from vllm_engine.plan.engine_plan import Choice, EnginePlan
from vllm_engine.plan.preflight import Preflight
from vllm_engine.plan.resolve import Planner

if TYPE_CHECKING:
    from rich.console import Console

_OF_THE_MODEL = frozenset({"MAX_MODEL_LEN", "TENSOR_PARALLEL", "KV_CACHE_MEMORY_BYTES"})
"""Settings that the model's configuration limits or decides."""


@dataclass(frozen=True)
class Row:
    """One line of the report; `known` is false if it depends on a model that could not be read."""

    key: str
    value: str
    source: str
    known: bool = True


def settings_report(
    preflight: Preflight, plan: EnginePlan, problems: Sequence[Problem] = (), *, is_model_seen: bool = True
) -> list[Row]:
    """List every setting, with its resolved value and the reason where it was derived.

    Those that have a problem are shown as they were given.
    """
    settings, environment = preflight.settings, preflight.environment
    resolved = plan.choices | {
        "SERVED_MODEL_NAME": Choice(
            " ".join(settings.served_names), environment.source("SERVED_MODEL_NAME") or "MODEL_ID"
        ),
        "ENGINE_PYTHON": Choice(
            str(preflight.installation.python),
            environment.source("ENGINE_PYTHON") or f"found; vLLM {preflight.installation.version}",
        ),
    }
    choices = {
        name.upper(): Choice(
            _shown(name, getattr(settings, name)), environment.source(name.upper()) or "default"
        )
        for name in Settings.model_fields
    } | resolved
    for key in preflight.flag_variables:
        choices[key] = Choice(masked(key, environment.merged[key]), environment.source(key) or "")
    for problem in problems:
        if problem.key in choices:
            source = environment.source(problem.key) or choices[problem.key].source
            choices[problem.key] = Choice(problem.value or "", f"{source}; INVALID")
    parsers = {key for key in OWN_FLAGS.values() if choices[key].source.startswith("auto")}
    unknown = frozenset() if is_model_seen else _OF_THE_MODEL | parsers
    note = "; NOT KNOWN until the model can be read"
    return [
        Row(key, choice.value, choice.source + (note if key in unknown else ""), key not in unknown)
        for key, choice in choices.items()
    ]


class EffectiveSettings:
    """The report of the running engine's configuration, brought up to date at each start."""

    def __init__(self, preflight: Preflight) -> None:
        plan = Planner(preflight, Model(preflight.settings.model_id)).plan()
        self.rows = settings_report(preflight, plan, is_model_seen=False)

    def planned(self, preflight: Preflight, plan: EnginePlan) -> None:
        """Record the settings and the plan with which an engine is about to be started."""
        self.rows = settings_report(preflight, plan)


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return "***"
    if name == "vllm_extra_args":
        return _masked_flags(str(value))
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return " ".join(value)
    return "" if value is None else masked(name, str(value))


def _masked_flags(text: str) -> str:
    try:
        return shlex.join(mask(shlex.split(text)))
    except ValueError:  # a quote is left open, which is told as a problem
        return HIDDEN


def show_settings(rows: Sequence[Row], console: Console) -> None:
    """Print a table on a terminal, a line a setting elsewhere."""
    from rich.table import Table  # noqa: PLC0415 - the server, which needs no tables, shall not load it
    from rich.text import Text  # noqa: PLC0415

    if not console.is_terminal:
        width = max(len(row.key) for row in rows)
        for row in rows:
            line = f"{row.key:<{width}}  {row.value or '-':<42}  {row.source}"
            console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)
        return
    table = Table("setting", "value", "source")
    for row in rows:
        style = "dim" if row.source == "default" else "bold"
        table.add_row(Text(row.key), Text(row.value or "-", style=style), Text(row.source, style="dim"))
    console.print(table)
