"""The resolved configuration as rows: key, value, where it comes from; secrets masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_engine.config.redaction import masked
from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem
from vllm_engine.plan.engine_plan import Choice, EnginePlan
from vllm_engine.plan.preflight import Preflight

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
        name.upper(): Choice(_shown(getattr(settings, name)), environment.source(name.upper()) or "default")
        for name in Settings.model_fields
    } | resolved
    for key in preflight.flag_variables:
        choices[key] = Choice(masked(key, environment.merged[key]), environment.source(key) or "")
    for problem in problems:
        if problem.key in choices:
            source = environment.source(problem.key) or choices[problem.key].source
            choices[problem.key] = Choice(problem.value or "", f"{source}; INVALID")
    unknown = frozenset() if is_model_seen else _OF_THE_MODEL
    note = "; NOT KNOWN until the model can be read"
    return [
        Row(key, choice.value, choice.source + (note if key in unknown else ""), key not in unknown)
        for key, choice in choices.items()
    ]


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return " ".join(value)
    return "" if value is None else str(value)


def show_settings(rows: Sequence[Row], console: Console) -> None:
    """Print a table on a terminal, a line a setting elsewhere."""
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
