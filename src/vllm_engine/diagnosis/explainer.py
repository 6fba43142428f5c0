"""Explains one engine's end, with the facts gathered over its life."""

from __future__ import annotations

from vllm_engine.config.settings import Settings
from vllm_engine.diagnosis.diagnose import diagnose
from vllm_engine.diagnosis.run_facts_gathering import known_facts, oom_kills, with_host, with_plan
from vllm_engine.engine.engine_exit import EngineExit
from vllm_engine.errors import Diagnosis
from vllm_engine.plan.engine_plan import EnginePlan
from vllm_engine.system.device import Device


class Explainer:
    """Holds what is known of this run; `explain` asks the machine for the rest."""

    def __init__(self, settings: Settings, device: Device, vllm_version: str) -> None:
        self._facts = known_facts(settings, device, vllm_version)
        self._oom_kills_before = oom_kills()

    def planned(self, plan: EnginePlan) -> None:
        """Take note of the plan that an engine is about to be started with."""
        self._facts = with_plan(self._facts, plan)
        self._oom_kills_before = oom_kills()

    def explain(self, ending: EngineExit) -> Diagnosis:
        """Say why an engine ended and what to do; reads a few small files of the kernel's."""
        return diagnose(ending, with_host(self._facts, self._oom_kills_before))
