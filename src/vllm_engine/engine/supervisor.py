"""Policy over the child: start it, wait until it truly generates, and tell how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from vllm_engine.engine.command import EngineCommand
from vllm_engine.engine.last_error import last_error
from vllm_engine.engine.probe import EngineProbe, ProbeError
from vllm_engine.engine.process import EngineProcess, describe_exit
from vllm_engine.engine.progress import later, parse_line
from vllm_engine.engine.pulse import Pulse
from vllm_engine.engine.restarts import RestartBudget
from vllm_engine.engine.state import EngineState, Phase, StatusBoard
from vllm_engine.engine.vitals import LossKind, VitalLimits, Vitals
from vllm_engine.errors import EngineError, StartupError, StartupTimeoutError, VllmEngineError
from vllm_engine.log import ENGINE_LOGGER

STOP_GRACE_SECONDS = 10.0
"""How long vLLM may take to end by itself after SIGTERM before its group is killed."""

_POLL_SECONDS = 0.2
_HEALTH_SECONDS = 10.0

logger = logging.getLogger("gateway.supervisor")
engine_logger = logging.getLogger(ENGINE_LOGGER)


@dataclass(frozen=True)
class Launch:
    """A prepared start of the engine."""

    command: EngineCommand
    served_name: str
    model_revision: str | None
    dtype: str


@dataclass(frozen=True)
class Policy:
    """What the supervisor may do and how long it waits."""

    startup_timeout_seconds: float
    max_restarts: int
    restart_window_seconds: float
    vitals: VitalLimits


class Supervisor:
    """Runs one engine, start after start; the only writer of its status."""

    def __init__(
        self,
        board: StatusBoard,
        prepare: Callable[[], Awaitable[Launch]],
        *,
        socket: Path,
        policy: Policy,
        pulse: Pulse,
    ) -> None:
        self._board = board
        self._prepare = prepare
        self._socket = socket
        self._policy = policy
        self._pulse = pulse
        self._budget = RestartBudget(policy.max_restarts, policy.restart_window_seconds)
        self._process: EngineProcess | None = None

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
            self._board.move(EngineState.FAILED, error=str(error))
            raise
        except asyncio.CancelledError:
            if self._board.current.state is not EngineState.DRAINING:
                self._board.move(EngineState.DRAINING)
            raise
        finally:
            await self._end_process()
            if self._board.current.state is EngineState.DRAINING:
                self._board.move(EngineState.STOPPED)

    def begin_drain(self) -> None:
        """Admit no more requests; the ones that run go on until `run` is cancelled."""
        self._board.move(EngineState.DRAINING)

    async def _run_once(self) -> None:
        """Start the engine and watch it until it is lost; returns when it may be started again."""
        try:
            launch = await self._start()
            await self._watch(launch)
        except VllmEngineError as error:
            if self._board.current.state is EngineState.DRAINING:
                raise
            delay = self._delay_after(error)
            self._board.move(EngineState.BACKOFF, error=str(error))
            await self._end_process()
            logger.warning(
                "the engine is started again in %.1f s (restart %d of %d in %g s)",
                delay,
                self._budget.used,
                self._policy.max_restarts,
                self._policy.restart_window_seconds,
            )
            await asyncio.sleep(delay)
            self._board.restart()

    def _delay_after(self, error: VllmEngineError) -> float:
        """Return how long to wait before the next start.

        Raises:
            VllmEngineError: there must not be one.
        """
        if not _is_retryable(error):
            raise error
        delay = self._budget.take()
        if delay is not None:
            return delay
        if not self._policy.max_restarts:
            raise error
        raise StartupError(
            f"{error}; given up after {self._budget.used} restarts within "
            f"RESTART_WINDOW_SECONDS={self._policy.restart_window_seconds:g}"
        ) from error

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.stop(STOP_GRACE_SECONDS)

    async def _start(self) -> Launch:
        launch = await self._prepare()
        self._board.progress(Phase.IMPORTING)
        # vLLM leaves its socket behind, and cannot bind one that is there.
        self._socket.unlink(missing_ok=True)
        try:
            self._process = await EngineProcess.spawn(
                launch.command.argv, launch.command.environ, on_line=self._on_line, cwd=Path.cwd()
            )
        except OSError as error:
            raise StartupError(f"the engine cannot be started: {error}") from error
        self._board.describe(model_revision=launch.model_revision, dtype=launch.dtype, pid=self._process.pid)
        exited = asyncio.ensure_future(self._process.wait())
        ready = asyncio.ensure_future(self._until_it_generates(launch.served_name))
        try:
            timeout = self._policy.startup_timeout_seconds
            await asyncio.wait({exited, ready}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and ready.exception() is None:
                self._board.progress(Phase.READY)
                self._board.move(EngineState.READY)
                logger.info("ready after %.1f s", self._board.current.elapsed_seconds())
                return launch
            if exited.done():
                raise StartupError(await self._obituary("before it was ready"))
            phase = self._board.current.phase
            raise StartupTimeoutError(
                f"the engine was not ready after STARTUP_TIMEOUT_SECONDS={timeout:g} "
                f"(still {phase}); set it higher, or look at the engine's lines above"
            )
        finally:
            for task in (exited, ready):
                task.cancel()

    async def _until_it_generates(self, served_name: str) -> None:
        said = 0.0
        async with EngineProbe(self._socket, timeout_seconds=60.0) as probe:
            while True:
                if await probe.is_healthy():
                    try:
                        await probe.served_models()
                        self._board.progress(Phase.WARMING_UP)
                        await probe.generate_one(served_name)
                    except ProbeError as error:
                        if time.monotonic() - said > 30.0:
                            said = time.monotonic()
                            logger.warning("the engine is up but does not generate yet: %s", error)
                    else:
                        return
                await asyncio.sleep(_POLL_SECONDS)

    async def _watch(self, launch: Launch) -> None:
        assert self._process is not None  # noqa: S101 - _start has set it
        async with EngineProbe(self._socket, timeout_seconds=_HEALTH_SECONDS) as probe:
            vitals = Vitals(self._process, probe, self._pulse, launch.served_name, self._policy.vitals)
            loss = await vitals.until_lost()
        if loss.kind is not LossKind.EXITED:
            logger.error("the engine is lost: %s", loss.seen)
            if self._board.current.state is EngineState.READY:
                self._board.move(EngineState.UNHEALTHY)
        if loss.kind in (LossKind.EXITED, LossKind.MEMBER_EXITED, LossKind.REPORTED):
            raise EngineError(await self._obituary("while it was serving"))
        raise EngineError(f"the engine was lost while it was serving: {loss.seen}")

    async def _obituary(self, when: str) -> str:
        assert self._process is not None  # noqa: S101 - only called for an engine that ran
        status = await self._process.reap()
        cause = last_error(self._process.tail)
        for line in self._process.tail[-25:]:
            logger.error("engine's last lines | %s", line)
        because = f": {cause}" if cause else "; it left no error: see its last lines above"
        return f"the engine {describe_exit(status)} {when}{because}"

    def _on_line(self, raw: str) -> None:
        line = parse_line(raw)
        engine_logger.log(
            logging.getLevelNamesMapping()[line.level],
            "%s%s",
            f"{line.process}: " if line.process else "",
            line.message,
        )
        if self._board.current.state is EngineState.STARTING:
            news = later(self._board.current.phase, raw)
            if news is not None:
                self._board.progress(*news)


def _is_retryable(error: VllmEngineError) -> bool:
    """A start that has failed fails again; an engine that has served can serve again."""
    return isinstance(error, EngineError) and not isinstance(error, StartupError)
