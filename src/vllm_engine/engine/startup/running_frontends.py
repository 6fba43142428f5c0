"""Which frontends an engine was started with, as its launcher has written it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from vllm_engine.engine.engine_state import Frontend
from vllm_engine.plan.engine_plan import BOTH, RUST

logger = logging.getLogger("gateway.supervisor")


def running_frontends(planned: str, file: Path) -> tuple[Frontend, ...]:
    """Return the frontends of an engine whose Python frontend, or only one, is up.

    With both planned, the launcher has written `file` before that. Why it fell back it has said itself.
    """
    if planned != BOTH:
        return (Frontend.RUST if planned == RUST else Frontend.PYTHON,)
    try:
        return tuple(map(Frontend, json.loads(file.read_text(encoding="utf-8"))["frontends"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.warning("the Python frontend is used alone: the launcher did not say which run (%s)", error)
        return (Frontend.PYTHON,)
