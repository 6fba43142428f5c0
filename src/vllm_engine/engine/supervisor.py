"""Policy over the child: start it, wait until it truly generates, and tell how it ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.control_client import EngineProbe
from vllm_engine.engine.engine_exit import Ending
from vllm_engine.engine.engine_state import EngineState, Phase, StatusBoard
from vllm_engine.engine.restarts import RestartBudget
from vllm_engine.engine.standby import Standby
from vllm_engine.engine.startup.first_token import FirstToken
from vllm_engine.engine.startup.hub_cache import HubCache, watch_download
from vllm_engine.engine.startup.log_progress import later, parse_line
from vllm_engine.engine.watchdog.patience import Patience
from vllm_engine.engine.watchdog.verdict import Loss, LossKind, Watchdog, WatchdogLimits
from vllm_engine.errors import Diagnosis, EngineError, StartupError, StartupTimeoutError, VllmEngineError
from vllm_engine.models.download_progress import Weights
from vllm_engine.plan.engine_command import EngineCommand
from vllm_engine.system.log import ENGINE_LOGGER
from vllm_engine.system.shortage import is_own_shortage

STOP_GRACE_SECONDS = 10.0
"""How long vLLM may take to end by itself after SIGTERM before its group is killed."""

_FITTING = frozenset(("MAX_MODEL_LEN", "GPU_MEMORY_UTILIZATION"))
"""What AUTO_FIT may change: less of the same, never another type, device or trust."""
_HEALTH_SECONDS = 10.0
_SHORTAGE_SECONDS = 5.0
"""Until we look again whether there are files and memory enough to go on."""
_LEAST_PATIENCE_SECONDS = 60.0
"""What a standby that has become the engine gets to be ready, and at least twice what a new one took."""

logger = logging.getLogger("gateway.supervisor")
engine_logger = logging.getLogger(ENGINE_LOGGER)


@dataclass(frozen=True)
class Launch:
    """A prepared start of the engine; `hub_cache` is where its weights come to, if from the hub."""

    command: EngineCommand
    served_name: str
    model_revision: str | None
    dtype: str
    hub_cache: HubCache | None = None


@dataclass(frozen=True)
class Policy:
    """What the supervisor may do and how long it waits."""

    startup_timeout_seconds: float
    max_restarts: int
    restart_window_seconds: float
    auto_fit: bool
    vitals: WatchdogLimits


class Supervisor:
    """Runs one engine, start after start; the only writer of its status."""

    def __init__(
        self,
        board: StatusBoard,
        prepare: Callable[[Mapping[str, str]], Awaitable[Launch]],
        explain: Callable[[Ending], Diagnosis],
        *,
        socket: Path,
        policy: Policy,
        pulse: EngineActivity,
        standby: bool | Literal["auto"] = False,
    ) -> None:
        self._board = board
        self._prepare = prepare
        self._explain = explain
        self._socket = socket
        self._policy = policy
        self._pulse = pulse
        self._budget = RestartBudget(policy.max_restarts, policy.restart_window_seconds)
        record = socket.with_name("spawned")
        self._standby = Standby(record, standby, on_line=self._on_line, tell=board.standing_by)
        self._was_standby = False
        self._start_seconds = 0.0
        self._patience = Patience(policy.vitals.hang_seconds)
        self._process: EngineProcess | None = None
        self._has_served = False
        self._changes: Mapping[str, str] = {}

    async def run(self) -> None:
        """Keep an engine running; cancel to stop it.

        Raises:
            StartupError: it cannot be started, or was lost too often.
            EngineError: it was lost and must not be started again.
        """
        try:
            while True:
                await self._run_once()
        except VllmEngineError as error:
            self._board.move(EngineState.FAILED, error=error.diagnosis)
            raise
        except asyncio.CancelledError:
            if self._board.current.state is not EngineState.DRAINING:
                self._board.move(EngineState.DRAINING)
            raise
        finally:
            await self._standby.close()
            await self._end_process()
            if self._board.current.state is EngineState.DRAINING:
                self._board.move(EngineState.STOPPED)

    def begin_drain(self) -> None:
        """Admit no more requests; the ones that run go on until `run` is cancelled."""
        self._board.move(EngineState.DRAINING)

    async def _run_once(self) -> None:
        """Start the engine and watch it until it is lost; returns when it may be started again."""
        try:
            try:
                launch = await self._start()
            except OSError as error:
                raise StartupError(f"the engine cannot be started: {error}") from error
            await self._watch(launch)
        except VllmEngineError as error:
            if self._board.current.state is EngineState.DRAINING:
                raise
            is_fitted = self._fit(error)
            is_spoilt = self._was_standby and isinstance(error, StartupError)
            delay = 0.0 if is_fitted or is_spoilt else self._delay_after(error)
            logger.error("%s", error)
            self._board.move(EngineState.BACKOFF, error=error.diagnosis)
            await self._end_process()
            if is_spoilt:
                logger.warning("that was the standby: the engine is started anew")
                self._board.restart()
                return
            if is_fitted:
                chosen = " ".join(f"{key}={value}" for key, value in self._changes.items())
                logger.warning("AUTO_FIT=1: NOT AS SET, the engine is started once more with %s", chosen)
                self._board.restart()
                return
            is_ours = is_own_shortage(error)
            counted = "not counted: it is we who lack files or memory" if is_ours else self._budget
            logger.warning("the engine is started again in %.1f s (%s)", delay, counted)
            await asyncio.sleep(delay)
            self._board.restart()

    def _delay_after(self, error: VllmEngineError) -> float:
        """Return how long to wait before the next start.

        Raises:
            VllmEngineError: there must not be one.
        """
        if is_own_shortage(error):
            return _SHORTAGE_SECONDS
        if not self._may_pass(error):
            raise error
        delay = self._budget.take()
        if delay is not None:
            return delay
        if not self._policy.max_restarts:
            raise error
        window = self._policy.restart_window_seconds
        given_up = f"given up after {self._budget.used} restarts within RESTART_WINDOW_SECONDS={window:g}"
        last = error.diagnosis
        raise StartupError(replace(last, message=f"{last.message}; {given_up}")) from error

    def _fit(self, error: VllmEngineError) -> bool:
        """Take the diagnosis' own values for the next start, if that is wanted and was not tried yet."""
        changes = {key: value for key, value in error.diagnosis.changes.items() if key in _FITTING}
        if not (self._policy.auto_fit and changes) or self._changes or self._has_served:
            return False
        self._changes = changes
        return True

    def _may_pass(self, error: VllmEngineError) -> bool:
        """Whether another start may go better.

        An engine that has served can serve again. One that never did has failed for a reason that lasts,
        unless its cause is known to be of the moment: its user shall read why at once, not after retries.
        """
        if not isinstance(error, EngineError):
            return False
        if self._has_served:
            return error.diagnosis.retryable or not isinstance(error, StartupError)
        lasting = isinstance(error, StartupTimeoutError) or error.diagnosis.code == "unknown"
        return error.diagnosis.retryable and not lasting

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop(STOP_GRACE_SECONDS)

    async def _start(self) -> Launch:
        launch = await self._prepare(self._changes)
        self._board.progress(Phase.IMPORTING)
        # vLLM leaves its socket behind, and cannot bind one that is there.
        self._socket.unlink(missing_ok=True)
        self._process = await self._process_for(self._standby.entry(launch.command))
        self._board.describe(model_revision=launch.model_revision, dtype=launch.dtype, pid=self._process.pid)
        exited = asyncio.ensure_future(self._process.wait())
        first = FirstToken(self._socket, launch.served_name, self._pulse.own, self._board)
        ready = asyncio.ensure_future(first.seconds())
        downloading = asyncio.ensure_future(watch_download(self._board, launch.hub_cache))
        try:
            timeout = self._policy.startup_timeout_seconds
            if self._was_standby:
                timeout = min(timeout, max(_LEAST_PATIENCE_SECONDS, 2 * self._start_seconds))
            await asyncio.wait({exited, ready}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            while first.is_blind and not (exited.done() or ready.done()):
                # Whether it is ready cannot be asked: that is no reason to end it.
                await asyncio.wait({exited, ready}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.exception() is None:
                self._patience = Patience(self._policy.vitals.hang_seconds)
                self._patience.took(ready.result())
                self._board.progress(Phase.READY)
                self._board.move(EngineState.READY)
                self._has_served = True
                seconds = self._board.current.elapsed_seconds()
                self._start_seconds = max(self._start_seconds, seconds)
                logger.info("ready after %.1f s%s", seconds, ", from the standby" * self._was_standby)
                return launch
            if exited.done():
                raise StartupError(await self._obituary())
            raise StartupTimeoutError(self._explain(self._ending(None)))
        finally:
            for task in (exited, ready, downloading):
                task.cancel()

    async def _process_for(self, command: EngineCommand) -> EngineProcess:
        standby = await self._standby.take(command)
        self._was_standby = standby is not None
        if standby is not None:
            return standby
        return await EngineProcess.spawn(command.argv, command.environ, on_line=self._on_line, cwd=Path.cwd())

    async def _watch(self, launch: Launch) -> None:
        assert self._process is not None  # noqa: S101 - _start has set it
        async with EngineProbe(self._socket, timeout_seconds=_HEALTH_SECONDS, own=self._pulse.own) as probe:
            vitals = Watchdog(
                self._process, probe, self._pulse, launch.served_name, self._policy.vitals, self._patience
            )
            command = self._standby.entry(launch.command)
            keeping = asyncio.ensure_future(self._standby.keep(command, self._process.pid))
            try:
                loss = await vitals.until_lost()
            finally:
                keeping.cancel()
        error = EngineError(await self._obituary(loss))
        await asyncio.gather(keeping, return_exceptions=True)
        raise error

    async def _obituary(self, loss: Loss | None = None) -> Diagnosis:
        """Read the engine's last lines, end what is left of it, and explain.

        Of an engine that was lost while its leader still ran, it is the loss that counts: the status would be
        that of our own signal.
        """
        assert self._process is not None  # noqa: S101 - only called for an engine that ran
        lives_on = loss is not None and loss.kind is not LossKind.EXITED
        ready = self._board.current.state is not EngineState.STARTING
        if lives_on and self._board.current.state is EngineState.READY:
            self._board.move(EngineState.UNHEALTHY)
        status = await self._process.reap()
        ending = self._ending(None if lives_on else status, ready, loss)
        for line in ending.tail[-25:]:
            logger.error("engine's last lines | %s", line)
        return self._explain(ending)

    def _ending(self, status: int | None, was_ready: bool = False, loss: Loss | None = None) -> Ending:
        assert self._process is not None  # noqa: S101 - only called for an engine that ran
        seen = loss.seen if loss is not None and status is None else ""
        phase = str(self._board.current.phase)
        return Ending(status, self._process.tail, was_ready, phase, seen, loss is not None and loss.is_hang)

    def _on_line(self, raw: str) -> None:
        line = parse_line(raw)
        level = logging.getLevelNamesMapping()[line.level]
        # While it is stopped, vLLM may report its own core's end as a failure.
        is_stopping = self._process is None
        engine_logger.log(
            min(level, logging.INFO) if is_stopping else level,
            "%s%s",
            f"{line.process}: " if line.process else "",
            line.message,
        )
        status = self._board.current
        if status.state is EngineState.STARTING:
            news = later(status.phase, raw, status.download.weights if status.download else Weights.PRESENT)
            if news is not None:
                self._board.progress(*news)
