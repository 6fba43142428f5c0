"""Readiness: the 503 that clients retry on while the engine cannot serve, and what it tells them."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import EngineState, EngineStatus
from vllm_engine.gateway.rejection import RETRY_AFTER_SECONDS, Rejected

_FOR_GOOD = frozenset((EngineState.FAILED, EngineState.STOPPED))
_NO_MORE = _FOR_GOOD | {EngineState.DRAINING}


@dataclass(frozen=True)
class HealthRules:
    """What probes are told of the engine, as far as settings decide it."""

    as_vllm: bool = False
    """Whether `/health` is vLLM's, which manifests for it use as a liveness probe (`HEALTH_ROUTE`)."""
    keeps_requests: bool = True
    """Whether requests wait for an engine that is being restarted (`REPLAY_TIMEOUT_SECONDS`)."""
    idle_is_ready: bool = True
    """Whether an engine that was stopped for being idle counts as ready meanwhile (`IDLE_IS_READY`)."""

    @classmethod
    def of(cls, settings: Settings) -> HealthRules:
        """Return the rules that the settings make."""
        return cls(
            settings.health_route == "vllm", settings.replay_timeout_seconds > 0, settings.idle_is_ready
        )

    def is_ready(self, status: EngineStatus) -> bool:
        """Whether readiness answers 200: requests are answered, at once or by an engine that they start."""
        return status.is_ready or (self.idle_is_ready and status.is_resting)

    def models(self, status: EngineStatus) -> bytes:
        """Return the list of models of an engine that was stopped for being idle: that of its start.

        Raises:
            Rejected: an idle engine does not count as ready.
        """
        if status.models is None or not self.is_ready(status):
            raise not_ready(status)
        return status.models

    def is_healthy(self, status: EngineStatus) -> bool:
        """Whether `/health` answers 200.

        vLLM does not listen before it has loaded the model, and never restarts: it exits, and a liveness
        probe has its container started again. Here that must not end a restart that is under way inside.
        """
        if not self.as_vllm:
            return self.is_ready(status)
        if not status.has_served or status.state in _NO_MORE:
            return False
        return status.is_ready or self.keeps_requests


def not_ready(status: EngineStatus) -> Rejected:
    """Return the refusal that says why requests cannot be answered now.

    The sentence while loading is the field's convention (llama-server has it so).
    """
    if status.waits_for and status.state is EngineState.STARTING:
        message = f"Waiting for {status.waits_for}"
    elif status.state is EngineState.STARTING:
        done = "" if status.fraction is None else f" {status.fraction:.0%}"
        message = f"Loading model ({status.phase}{done}, {status.elapsed_seconds():.0f} s so far)"
    elif status.state is EngineState.IDLE:
        message = "The engine is idle: it was stopped, and the next request for an answer starts it"
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
