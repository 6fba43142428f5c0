"""The first phase of a start: the model is found and downloaded, the plan settled, the command made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from vllm_engine.config.settings import load_settings
from vllm_engine.engine.engine_state import Phase, StatusBoard
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.engine.process_tree import Node
from vllm_engine.engine.startup.cpu_processes import cpu_processes
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.engine.startup.process_history import ProcessHistory, processes_key
from vllm_engine.engine.startup.start_history import StartRecorder
from vllm_engine.errors import Diagnosis
from vllm_engine.models.abilities import Abilities
from vllm_engine.models.hub_download import Listener
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_command import EngineCommand
from vllm_engine.plan.engine_plan import PYTHON, EnginePlan
from vllm_engine.plan.model_files import model_abilities, obtain_model
from vllm_engine.plan.offline import may_start_offline, will_likely_start_offline
from vllm_engine.plan.preflight import Preflight
from vllm_engine.plan.resolve import Planner, find_model, foresee_command, resolve_command, start_key

logger = logging.getLogger("gateway")


@dataclass(frozen=True)
class Launch:
    """Everything for one start of the engine, whose model is on this machine."""

    command: EngineCommand
    model_revision: str | None
    dtype: str
    max_model_len: int | None = None
    has_reasoning_parser: bool = False
    abilities: Abilities = field(default_factory=Abilities)
    frontend: str = PYTHON
    """Which frontends the command starts: both, python or rust."""
    on_cpu: bool = False
    """Whether it computes on the CPU."""

    def describe(self, board: StatusBoard, pid: int) -> None:
        """Record what is running now, in the process `pid`."""
        board.describe(
            model_revision=self.model_revision,
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            has_reasoning_parser=self.has_reasoning_parser,
            abilities=self.abilities,
            pid=pid,
        )


@dataclass(frozen=True)
class Foreseen:
    """What is known of a start before there is a model: how its command begins, and its processes."""

    command: EngineCommand
    children: Sequence[Node]


@dataclass
class Preparation:
    """Makes everything for one start of the engine; only the first looks the model up and downloads it."""

    preflight: Preflight
    folders: EngineFolders
    board: StatusBoard
    recorder: StartRecorder
    planned: Callable[[Preflight, EnginePlan], None]
    diagnose: Callable[[EngineExit], Diagnosis]
    processes: ProcessHistory
    model: Model | None = None
    is_offline: bool = False
    needs_hub: bool = False
    """Whether a start offline has failed for want of a file."""

    async def __call__(self, changes: Mapping[str, str]) -> Launch:
        """Settle the plan, with `changes` in place of what was set, and bring the model to this machine."""
        preflight = self._changed(changes)
        model = self.model or await find_model(preflight)
        plan = Planner(preflight, model).plan()
        self.planned(preflight, plan)
        length = plan.max_model_len.value
        for note in plan.notes:
            logger.info("%s", note)
        self.recorder.begins(start_key(preflight, plan))
        listener = Listener(self.board.downloading, self._converting, partial(logger.info, "%s"))
        files = await obtain_model(preflight, model, listener)
        self.model = model
        self.is_offline = not self.needs_hub and may_start_offline(preflight, model, files)
        return Launch(
            command=self._command(preflight, plan),
            model_revision=model.revision,
            dtype=plan.dtype.value,
            max_model_len=int(length) if length.isdigit() else None,
            has_reasoning_parser=plan.reasoning_parser.value not in ("none", ""),
            abilities=model_abilities(preflight, model, files.folder),
            frontend=plan.frontend.value,
            on_cpu=preflight.device.kind == "cpu",
        )

    def foresee(self, changes: Mapping[str, str]) -> Foreseen:
        """Return what is known of the start for which this is called next.

        Raises:
            OSError: the files that the engine needs cannot be written.
        """
        preflight = self._changed(changes)
        python = self.folders.without_separators(preflight.installation.python)
        is_offline = will_likely_start_offline(preflight) if self.model is None else self.is_offline
        command = foresee_command(
            preflight,
            is_offline=is_offline and not self.needs_hub,
            python=python,
            places=self.folders.variables(preflight.environment.merged),
        )
        children = self.processes.known(processes_key(preflight))
        if children is None:
            is_cpu = preflight.installation.kind == "cpu"
            children = cpu_processes(python, command.environ) if is_cpu else []
        return Foreseen(command, children)

    def remember(self, children: Sequence[Node]) -> None:
        """Keep which processes the engine that runs has started, for the next start."""
        self.processes.record(processes_key(self.preflight), list(children))

    def _changed(self, changes: Mapping[str, str]) -> Preflight:
        if not changes:
            return self.preflight
        environment = self.preflight.environment.changed(changes)
        return replace(self.preflight, settings=load_settings(environment), environment=environment)

    def explain(self, end: EngineExit) -> Diagnosis:
        """Say why an engine ended; one that misses a file because it was kept offline starts again online."""
        told = self.diagnose(end)
        if not self.is_offline or told.code not in ("not-cached-and-offline", "hub-unreachable"):
            return told
        self.needs_hub = True
        return replace(told, remedy="vLLM is started again with access to the hub", retryable=True)

    def _command(self, preflight: Preflight, plan: EnginePlan) -> EngineCommand:
        return resolve_command(
            preflight,
            plan,
            self.folders.socket,
            is_offline=self.is_offline,
            python=self.folders.without_separators(preflight.installation.python),
            places=self.folders.variables(preflight.environment.merged),
        )

    def _converting(self, done: int, total: int) -> None:
        self.board.progress(Phase.PREPARING, done / max(1, total))
