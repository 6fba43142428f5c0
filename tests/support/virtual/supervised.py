"""A supervisor of played engines, in virtual time."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.support.virtual.engine_rig import COMMAND, Life, Rig
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_state import StatusBoard
from vllm_engine.engine.idle import ClientDemand
from vllm_engine.engine.nodes.head_group import HeadGroup
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.engine.startup.preparation import Foreseen, Launch
from vllm_engine.engine.supervisor import Supervisor
from vllm_engine.errors import (
    Diagnosis,
    VllmEngineError,
)
from vllm_engine.plan.engine_command import EngineCommand

LASTING = Diagnosis("unknown", "no known cause")
PASSING = Diagnosis("hub-unreachable", "the hub cannot be reached", retryable=True)
TOO_LONG = Diagnosis("kv-cache-too-small", "no room", changes={"MAX_MODEL_LEN": "1280", "DTYPE": "float16"})
NO_FILES = OSError(errno.EMFILE, "Too many open files")
LOGS = Path(__file__).parents[2] / "data/logs/failed"
FORESEEN = Foreseen(EngineCommand(COMMAND.argv[:4], COMMAND.environ), [])
SETTINGS = load_settings(Environment({"STANDBY": "0", "STARTUP_TIMEOUT_SECONDS": "600"}, {}))


class Case:
    """A supervisor of played engines."""

    def __init__(
        self,
        folder: Path,
        *lives: Life,
        diagnosis: Diagnosis = LASTING,
        foresee: Foreseen | None = None,
        group: HeadGroup | None = None,
        **changes: Any,
    ) -> None:
        self.rig, self.board, self.states = Rig(*lives), StatusBoard(), ["starting"]
        self.changes: list[Mapping[str, str]] = []
        self.exits: list[EngineExit] = []
        self.diagnosis = diagnosis
        self.prepare_error: VllmEngineError | None = None
        self.frontend = "python"
        self.prepare_seconds = 0.0
        self.prepared = 1
        """How many starts are prepared before that error."""
        self.demand = ClientDemand(changes.get("idle_stop_seconds", 0.0))
        self.board.watch(lambda status: self.states.append(status.state))
        self.supervisor = Supervisor(
            self.board, self._prepare, self._explain, folders=EngineFolders(folder, folder / "tmp"),
            settings=SETTINGS.model_copy(update=changes), activity=EngineActivity(), demand=self.demand, group=group, spawn=self.rig.spawn, connect=self.rig.connect,
            clock=asyncio.get_running_loop().time, foresee=(lambda _: foresee) if foresee else None,
        )  # fmt: skip

    async def _prepare(self, changes: Mapping[str, str]) -> Launch:
        self.changes.append(changes)
        await asyncio.sleep(self.prepare_seconds)
        if self.prepare_error is not None and len(self.changes) > self.prepared:
            raise self.prepare_error
        return Launch(COMMAND, None, "float16", frontend=self.frontend)

    def _explain(self, ended: EngineExit) -> Diagnosis:
        self.exits.append(ended)
        return self.diagnosis

    async def run(self, seconds: float = 1e5) -> BaseException | None:
        """Supervise until it ends or for so long; returns its error."""
        running = asyncio.create_task(self.supervisor.run())
        await asyncio.wait({running}, timeout=seconds)
        running.cancel()
        [result] = await asyncio.gather(running, return_exceptions=True)
        assert not any(process.is_running for process in self.rig.processes)
        return result

    @property
    def path(self) -> str:
        """The states in order, each once."""
        return " ".join(state for state, _ in groupby(self.states))
