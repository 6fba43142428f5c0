"""Which frontends an engine was started with, as its launcher has written it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from vllm_engine.engine.engine_state import Frontend
from vllm_engine.plan.engine_plan import BOTH, RUST


class Running(NamedTuple):
    """The frontends of an engine, and why not both where both were planned."""

    frontends: tuple[Frontend, ...]
    reason: str = ""


def running_frontends(planned: str, file: Path) -> Running:
    """Return the frontends of an engine whose Python frontend, or only one, is up.

    With both planned, the launcher has written `file` before that; without it only the Python frontend runs.
    """
    if planned != BOTH:
        return Running((Frontend.RUST if planned == RUST else Frontend.PYTHON,))
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return Running(tuple(map(Frontend, told["frontends"])), str(told.get("reason") or ""))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Running((Frontend.PYTHON,), f"the launcher did not say ({error})")
