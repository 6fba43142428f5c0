"""Policy over the child: start it, wait until it truly generates, and tell how it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from vllm_engine.engine.command import EngineCommand
from vllm_engine.engine.download import Weights
from vllm_engine.engine.ending import Ending
from vllm_engine.engine.hub_cache import HubCache, watch_download
from vllm_engine.engine.probe import EngineProbe, ProbeError
from vllm_engine.engine.process import EngineProcess
from vllm_engine.engine.progress import later, parse_line
from vllm_engine.engine.state import EngineState, Phase, StatusBoard
from vllm_engine.errors import Diagnosis, EngineError, StartupError, StartupTimeoutError, VllmEngineError
from vllm_engine.log import ENGINE_LOGGER

STOP_GRACE_SECONDS = 10.0
"""How long vLLM may take to end by itself after SIGTERM before its group is killed."""

_POLL_SECONDS = 0.2

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


class Supervisor:
    """Runs one engine; the only writer of its status."""

    def __init__(
        self,
        board: StatusBoard,
        prepare: Callable[[], Awaitable[Launch]],
        explain: Callable[[Ending], Diagnosis],
        *,
        socket: Path,
        startup_timeout_seconds: float,
    ) -> None:
        self._board = board
        self._prepare = prepare
        self._explain = explain
        self._socket = socket
        self._startup_timeout = startup_timeout_seconds
        self._process: EngineProcess | None = None

    async def run(self) -> None:
        """Start the engine and watch it until it ends; cancel to stop it.

        Raises:
            StartupError: it could not be started.
            EngineError: it had been ready and ended by itself.
        """
        try:
            await self._start()
            await self._watch()
        except VllmEngineError as error:
            self._board.move(EngineState.FAILED, error=error.diagnosis)
            raise
        except asyncio.CancelledError:
            if self._board.current.state is not EngineState.DRAINING:
                self._board.move(EngineState.DRAINING)
            raise
        finally:
            if self._process is not None:
                await self._process.stop(STOP_GRACE_SECONDS)
            if self._board.current.state is EngineState.DRAINING:
                self._board.move(EngineState.STOPPED)

    def begin_drain(self) -> None:
        """Admit no more requests; the ones that run go on until `run` is cancelled."""
        self._board.move(EngineState.DRAINING)

    async def _start(self) -> None:
        launch = await self._prepare()
        self._board.progress(Phase.IMPORTING)
        try:
            self._process = await EngineProcess.spawn(
                launch.command.argv, launch.command.environ, on_line=self._on_line, cwd=Path.cwd()
            )
        except OSError as error:
            raise StartupError(f"the engine cannot be started: {error}") from error
        self._board.describe(model_revision=launch.model_revision, dtype=launch.dtype, pid=self._process.pid)
        exited = asyncio.ensure_future(self._process.wait())
        ready = asyncio.ensure_future(self._until_it_generates(launch.served_name))
        downloading = asyncio.ensure_future(watch_download(self._board, launch.hub_cache))
        try:
            await asyncio.wait(
                {exited, ready}, timeout=self._startup_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if ready.done() and ready.exception() is None:
                self._board.progress(Phase.READY)
                self._board.move(EngineState.READY)
                logger.info("ready after %.1f s", self._board.current.elapsed_seconds())
                return
            if exited.done():
                raise StartupError(await self._obituary())
            raise StartupTimeoutError(self._explain(self._ending(None)))
        finally:
            for task in (exited, ready, downloading):
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

    async def _watch(self) -> None:
        assert self._process is not None  # noqa: S101 - _start has set it
        await self._process.wait()
        raise EngineError(await self._obituary())

    async def _obituary(self) -> Diagnosis:
        assert self._process is not None  # noqa: S101 - only called for an engine that ran
        ending = self._ending(await self._process.reap())
        for line in ending.tail[-25:]:
            logger.error("engine's last lines | %s", line)
        return self._explain(ending)

    def _ending(self, status: int | None) -> Ending:
        assert self._process is not None  # noqa: S101 - only called for an engine that ran
        now = self._board.current
        return Ending(status, self._process.tail, now.state is not EngineState.STARTING, str(now.phase))

    def _on_line(self, raw: str) -> None:
        line = parse_line(raw)
        engine_logger.log(
            logging.getLevelNamesMapping()[line.level],
            "%s%s",
            f"{line.process}: " if line.process else "",
            line.message,
        )
        status = self._board.current
        if status.state is EngineState.STARTING:
            news = later(status.phase, raw, status.download.weights if status.download else Weights.PRESENT)
            if news is not None:
                self._board.progress(*news)
