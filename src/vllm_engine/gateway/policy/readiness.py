"""Readiness: the 503 that clients retry on while the engine cannot serve, and what it tells them."""

from __future__ import annotations

from vllm_engine.engine.engine_state import EngineState, EngineStatus
from vllm_engine.gateway.rejection import RETRY_AFTER_SECONDS, Rejected

_FOR_GOOD = frozenset((EngineState.FAILED, EngineState.STOPPED))


def not_ready(status: EngineStatus) -> Rejected:
    """Return the refusal that says why requests cannot be answered now.

    The sentence while loading is the field's convention (llama-server has it so).
    """
    if status.state is EngineState.STARTING:
        done = "" if status.fraction is None else f" {status.fraction:.0%}"
        message = f"Loading model ({status.phase}{done}, {status.elapsed_seconds():.0f} s so far)"
    elif status.state is EngineState.FAILED:
        message = f"The engine has failed: {status.error or 'no reason is known'}"
    else:
        message = f"The engine is {status.state}"
    return Rejected(503, "not_ready", message, retry_after_seconds=retry_after_seconds(status))


def retry_after_seconds(status: EngineStatus) -> int | None:
    """Return when to come back; None for an engine that is not expected back (`ON_FATAL=hold`).

    RFC 9110, section 10.2.3: how long the service is expected to be unavailable.
    """
    return None if status.state in _FOR_GOOD else RETRY_AFTER_SECONDS
