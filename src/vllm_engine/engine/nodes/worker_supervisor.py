"""A worker's side of a group of nodes: it waits for the head, and runs vLLM for each start of the head's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from vllm_engine.config.settings import Settings
from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.engine_log import EngineLog
from vllm_engine.engine.engine_state import EngineState, Phase, StatusBoard
from vllm_engine.engine.nodes.node_environment import reachable_at
from vllm_engine.engine.nodes.node_link import Link, LinkLostError, silent_beats
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.engine.restarts import RestartBudget, RestartPolicy
from vllm_engine.engine.startup.preparation import Launch
from vllm_engine.engine.watchdog.child_watcher import ChildExit, ChildWatcher
from vllm_engine.engine.watchdog.watchdog import Loss, LossKind
from vllm_engine.errors import Diagnosis, StartupError, VllmEngineError

_AGAIN_SECONDS = 1.0
"""How often the head is tried."""
_STOP_GRACE_SECONDS = 2.0
"""How long vLLM may take to end by itself: it has nothing to keep, and may wait for other nodes for ever."""

logger = logging.getLogger("gateway.nodes")


class WorkerSupervisor:
    """Runs the vLLM of a node that is not the head; the only writer of its status.

    `prepare` makes everything for a start, `explain` diagnoses the end of an engine, `ours` is what the nodes
    must agree on. A worker never gives up: whether and when there is another start is the head's to decide.
    """

    def __init__(
        self,
        board: StatusBoard,
        prepare: Callable[[Mapping[str, str]], Awaitable[Launch]],
        explain: Callable[[EngineExit], Diagnosis],
        *,
        settings: Settings,
        ours: Mapping[str, str],
        spawn: Callable[..., Awaitable[EngineProcess]] = EngineProcess.spawn,
    ) -> None:
        self._board, self._prepare = board, prepare
        self._settings, self._ours, self._spawn = settings, ours, spawn
        budget = RestartBudget(settings.max_restarts, settings.restart_window_seconds)
        self._preparations = RestartPolicy(budget, auto_fit=False)
        self._head = f"{settings.head_address}:{settings.head_port + 1}"
        self._log = EngineLog(board, explain)
        self._serves = asyncio.Event()
        """Set while the engine that this vLLM is a part of serves."""
        self._process: EngineProcess | None = None
        self._launch: Launch | None = None
        self._start: str | None = None
        """The start that its vLLM runs for, or ran for until the head has noticed its end."""
        self._released = asyncio.Event()
        """Set while no vLLM runs here."""
        self._released.set()

    async def run(self) -> None:
        """Serve the head; cancel to stop it.

        Raises:
            VllmEngineError: the model cannot be had, or a setting does not fit it.
        """
        async with self._board.supervised(self._end):
            while True:
                await self._serve_a_head()
                await asyncio.sleep(_AGAIN_SECONDS)

    def begin_drain(self) -> None:
        """Go on for the head, which may have requests to end, but start no vLLM any more."""
        self._board.move(EngineState.DRAINING)

    async def released(self) -> None:
        """Wait until the head needs this node no more."""
        await self._released.wait()

    async def _prepared(self) -> Launch:
        """Return what the next start needs; made anew only once one has begun with it."""
        while self._launch is None:
            self._again()
            try:
                self._launch = await self._prepare({})
            except VllmEngineError as error:
                if self._is_draining:
                    raise
                restart = self._preparations.after(error, was_standby=False)
                logger.error("%s", error)
                self._board.move(EngineState.BACKOFF, error=error.diagnosis)
                logger.warning("%s", restart.notice)
                await asyncio.sleep(restart.delay_seconds)
        return self._launch

    async def _serve_a_head(self) -> None:
        """Connect to the head and do as it says, until it is gone."""
        settings = self._settings
        launch = await self._prepared()
        try:
            beats = silent_beats(settings.hang_timeout_seconds)
            link = await Link.to(settings.head_address or "", settings.head_port + 1, silent_beats=beats)
        except LinkLostError as error:
            self._wait_for(f"the head {self._head} ({error})")
            return
        async with link:
            link.send(rank=settings.node_rank, settings=self._ours)
            link.send(waits=True)
            try:
                await self._obey(link, launch)
            except LinkLostError as error:
                if self._start is not None:
                    self._lost(
                        Diagnosis("head-lost", f"the head {self._head} was lost: {error}", retryable=True)
                    )
                self._wait_for(f"the head {self._head} ({error})")
            finally:
                await self._end()

    async def _obey(self, link: Link, launch: Launch) -> None:
        heard = asyncio.ensure_future(link.receive())
        ended: asyncio.Future[Loss | None] | None = None
        try:
            while True:
                waits: set[asyncio.Future[Any]] = {heard} if ended is None else {heard, ended}
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if ended is not None and ended.done():
                    await self._tell_end(link, ended.result())
                    ended = None
                if not heard.done():
                    continue
                message = heard.result()
                heard = asyncio.ensure_future(link.receive())
                if "start" in message and not self._is_draining:
                    ended = await self._begin(link, launch, str(message["start"]))
                elif await self._other(message):
                    _cancelled(ended)
                    ended = None
                    launch = await self._prepared()
                    self._wait_for(f"the head {self._head} to start")
                    link.send(waits=True)
        finally:
            _cancelled(heard, ended)

    async def _other(self, message: Mapping[str, Any]) -> bool:
        """Act on a message that begins no start; True if the start that ran is over."""
        if refusal := message.get("refused"):
            raise LinkLostError(f"it refuses this node: {refusal}")
        if "joined" in message:
            self._wait_for(f"the head {self._head} to start")
        if "serving" in message and message["serving"] == self._start and self._process is not None:
            if self._board.current.state is EngineState.STARTING:
                self._board.progress(Phase.READY)
                self._board.move(EngineState.READY)
                self._serves.set()
                logger.info("the engine serves, with this node as rank %d", self._settings.node_rank)
        elif "stop" in message and message["stop"] == self._start:
            self._lost(Diagnosis("head-restarts", "the head starts the engine again", retryable=True))
            await self._end()
            return not self._is_draining
        return False

    async def _begin(self, link: Link, launch: Launch, start: str) -> asyncio.Future[Loss | None]:
        """Start vLLM; returns what is done when it, or one of its processes, has ended."""
        await self._end()
        self._start, self._launch = start, None
        self._serves.clear()
        self._released.clear()
        self._log.is_stopping = False
        self._board.wait_for(None)
        self._board.progress(Phase.IMPORTING)
        command = reachable_at(launch.command, link.own_address)
        try:
            process = await self._spawn(
                command.argv, command.environ, on_line=self._log.on_line, cwd=Path.cwd()
            )
        except OSError as error:
            raise StartupError(f"the engine cannot be started: {error}") from error
        self._process = process
        launch.describe(self._board, process.pid)
        logger.info("the head starts the engine: starting this node's part of it")
        return asyncio.ensure_future(self._until_ended(process))

    async def _until_ended(self, process: EngineProcess) -> Loss | None:
        """Wait for the end of vLLM; returns how it was lost once the engine served.

        Its first process takes seconds to notice that another has ended.
        """
        exited = asyncio.ensure_future(process.wait())
        serves = asyncio.ensure_future(self._serves.wait())
        watcher = ChildWatcher(process.pid)
        child: asyncio.Future[ChildExit] | None = None
        try:
            await asyncio.wait({exited, serves}, return_when=asyncio.FIRST_COMPLETED)
            if not self._serves.is_set():
                return None
            child = asyncio.ensure_future(watcher.first_loss())
            await asyncio.wait({exited, child}, return_when=asyncio.FIRST_COMPLETED)
            if not child.done():
                return Loss(LossKind.EXITED, "it exited by itself")
            return Loss(LossKind.CHILD_EXITED, str(child.result()), child.result().status)
        finally:
            _cancelled(exited, serves, child)
            watcher.close()

    async def _tell_end(self, link: Link, loss: Loss | None) -> None:
        """Explain the end of vLLM, and tell the head."""
        process, self._process = self._process, None
        if process is None:
            return
        told = await self._log.diagnose(process, loss)
        logger.error("%s", told)
        why = {"code": told.code, "message": told.message, "remedy": told.remedy, "retryable": told.retryable}
        link.send(ended=self._start, why=why)
        self._released.set()
        self._lost(told)

    async def _end(self) -> None:
        process, self._process = self._process, None
        self._start = None
        if process is not None:
            self._log.is_stopping = True
            await process.stop(_STOP_GRACE_SECONDS)
        self._released.set()

    def _lost(self, why: Diagnosis) -> None:
        """Record that this start is over."""
        if self._board.current.state in (EngineState.STARTING, EngineState.READY, EngineState.UNHEALTHY):
            self._board.move(EngineState.BACKOFF, error=why)

    def _wait_for(self, what: str) -> None:
        self._again()
        if self._board.current.waits_for != what:
            logger.info("waiting for %s", what)
        self._board.wait_for(what)

    def _again(self) -> None:
        if self._board.current.state is EngineState.BACKOFF:
            self._board.restart()

    @property
    def _is_draining(self) -> bool:
        return self._board.current.state is EngineState.DRAINING


def _cancelled(*tasks: asyncio.Future[Any] | None) -> None:
    for task in tasks:
        if task is not None:
            task.cancel()
