"""The resolved configuration as rows: key, value, where it comes from; secrets masked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from vllm_engine.engine.flags import mask
from vllm_engine.engine.plan import EnginePlan
from vllm_engine.settings import Environment, Settings

_SECRET_NAME = re.compile(r"TOKEN|API_KEY|SECRET|PASSWORD|CREDENTIAL")


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    key: str
    value: str
    source: str


def settings_report(
    settings: Settings, environment: Environment, plan: EnginePlan, flags: Sequence[str]
) -> list[Row]:
    """List every setting; where the plan settled a value, that value and why; last the vLLM flags."""
    settled = plan.choices
    rows = []
    for name in Settings.model_fields:
        key = name.upper()
        choice = settled.pop(key, None)
        value = choice.value if choice else _shown(getattr(settings, name))
        rows.append(Row(key, value, choice.source if choice else environment.source(key) or "default"))
    rows += [Row(key, choice.value, choice.source) for key, choice in settled.items()]
    rows.append(Row("vLLM flags", shlex.join(mask(flags)), "environment"))
    return rows


def mask_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the values of tokens, keys and passwords blanked."""
    return {key: "***" if _SECRET_NAME.search(key) else value for key, value in environ.items()}


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, tuple):
        return " ".join(value)
    return "" if value is None else str(value)
