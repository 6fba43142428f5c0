"""Keeps one engine running: starts it, waits for its first token, watches it, and restarts it when lost."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_engine.config.settings import Settings
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.child_process import EngineProcess
from vllm_engine.engine.control_client import ControlClient
from vllm_engine.engine.engine_log import EngineLog
from vllm_engine.engine.engine_state import EngineState, Phase, StatusBoard
from vllm_engine.engine.idle import ClientDemand, until_lost_or_idle
from vllm_engine.engine.nodes.head_group import HeadGroup
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.engine.process_tree import Node
from vllm_engine.engine.restarts import RestartBudget, RestartPolicy
from vllm_engine.engine.standby import Standby
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.engine.startup.first_tokens import FirstTokens
from vllm_engine.engine.startup.preparation import Foreseen, Launch
from vllm_engine.engine.watchdog.child_watcher import children_state
from vllm_engine.engine.watchdog.stall import IdleChecks, StepLimit
from vllm_engine.engine.watchdog.watchdog import Watchdog
from vllm_engine.errors import (
    Diagnosis,
    EngineError,
    RefusedError,
    StartupError,
    StartupTimeoutError,
    VllmEngineError,
)
from vllm_engine.plan.engine_command import EngineCommand

STOP_GRACE_SECONDS = 10.0
"""How long vLLM may take to end by itself after SIGTERM before its group is killed."""

START_STOP_GRACE_SECONDS = 1.0
"""The same before it serves: vLLM takes no notice of SIGTERM while it imports and loads."""

_START_ANSWER_SECONDS = 60.0
_HEALTH_SECONDS = 10.0
_LEAST_STANDBY_SECONDS = 60.0
"""How long a standby that has become the engine may take to be ready, and at least twice a cold start."""

logger = logging.getLogger("gateway.supervisor")


class Supervisor:
    """Runs one engine, start after start; the only writer of its status.

    `prepare` makes everything for a start, with the settings that it is called with in place of the user's.
    `explain` diagnoses the end of an engine. `foresee` says what is known of a start before it is prepared,
    and `remember` is given the processes that an engine has started. The engine listens on the sockets in
    `folders`.
    """

    def __init__(
        self,
        board: StatusBoard,
        prepare: Callable[[Mapping[str, str]], Awaitable[Launch]],
        explain: Callable[[EngineExit], Diagnosis],
        *,
        folders: EngineFolders,
        settings: Settings,
        activity: EngineActivity,
        demand: ClientDemand,
        group: HeadGroup | None = None,
        foresee: Callable[[Mapping[str, str]], Foreseen] | None = None,
        remember: Callable[[Sequence[Node]], None] = lambda _: None,
        spawn: Callable[..., Awaitable[EngineProcess]] = EngineProcess.spawn,
        connect: Callable[..., ControlClient] = ControlClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._board = board
        self._prepare = prepare
        self._log = EngineLog(board, explain)
        self._foresee = foresee
        self._folders, self._socket = folders, folders.socket
        self._settings = settings
        self._activity = activity
        self._demand = demand
        self._group = group or HeadGroup(settings, {}, board.wait_for)
        self._spawn = spawn
        self._connect = connect
        self._clock = clock
        budget = RestartBudget(settings.max_restarts, settings.restart_window_seconds, clock=clock)
        self._restarts = RestartPolicy(budget, auto_fit=settings.auto_fit)
        self._standby = Standby(
            self._socket.with_name("spawned"),
            settings.standby,
            on_line=self._log.on_line,
            tell=board.standing_by,
            remember=remember,
            spawn=spawn,
        )
        self._was_standby = False
        self._was_imported = False
        """Whether the process had imported vLLM while its start was prepared."""
        self._is_plain = False
        """Whether the next start must be with a new process."""
        self._has_served = False
        self._longest_start = 0.0
        self._process: EngineProcess | None = None

    async def run(self) -> None:
        """Keep an engine running; cancel to stop it.

        Raises:
            StartupError: it cannot be started, or was lost too often.
            EngineError: it was lost and must not be started again.
        """
        async with self._board.supervised(self._end):
            while True:
                try:
                    await self._run_once()
                except VllmEngineError as error:
                    if self._board.current.state is EngineState.DRAINING:
                        raise
                    await self._wait_for_restart(error)

    def begin_drain(self) -> None:
        """Admit no more requests; running ones go on until `run` is cancelled."""
        self._board.move(EngineState.DRAINING)

    async def released(self) -> None:
        """Return at once: nothing but requests needs this engine."""

    async def _run_once(self) -> None:
        """Start the engine and watch it until it is lost, or has been idle and is wanted again."""
        self._was_standby, self._has_served, began = False, False, self._clock()
        self._was_imported = False
        try:
            await self._import_in_advance()
            launch = await self._prepare(self._restarts.changes)
            await self._group.gather()
            command = self._standby.entry(await self._group.reachable(launch.command))
            self._group.begin()
            process = self._process = await self._start_process(command)
            self._log.is_stopping = False
        except OSError as error:
            raise StartupError(f"the engine cannot be started: {error}") from error
        launch.describe(self._board, process.pid)
        token_seconds = await self._until_ready(process, launch.frontend)
        seconds = self._clock() - began
        self._board.progress(Phase.READY)
        self._board.move(EngineState.READY)
        self._demand.begin()
        self._group.serving()
        self._has_served = self._restarts.has_served = True
        self._is_plain = False
        self._longest_start = max(self._longest_start, seconds)
        logger.info("ready after %.1f s%s", seconds, ", from the standby" * self._was_standby)
        await self._watch(process, launch, command, token_seconds)

    async def _wait_for_restart(self, error: VllmEngineError) -> None:
        """Wait for the next start; raises the error instead if there must not be one."""
        restart = self._restarts.after(error, was_standby=self._was_standby, was_imported=self._was_imported)
        logger.error("%s", error)
        self._board.move(EngineState.BACKOFF, error=error.diagnosis)
        await self._end_process()
        logger.warning("%s", restart.notice)
        self._is_plain = restart.is_plain
        await self._import_in_advance()
        await asyncio.sleep(restart.delay_seconds)
        self._board.restart()

    async def _import_in_advance(self) -> None:
        """Have a process import vLLM while its start is waited for and prepared."""
        if self._foresee is None or self._is_plain or not self._standby.may_begin:
            return
        with contextlib.suppress(OSError):  # the start itself meets it again
            # Now that no process has files there.
            await asyncio.to_thread(self._folders.clear)
            foreseen = self._foresee(self._restarts.changes)
            await self._standby.begin(await self._group.reachable(foreseen.command), foreseen.children)

    async def _start_process(self, command: EngineCommand) -> EngineProcess:
        """Start the engine's process, from the standby if there is one that can be used."""
        self._board.progress(Phase.IMPORTING)
        # vLLM leaves its sockets behind, and cannot bind one that exists.
        for left in (self._socket, self._folders.rust_socket, self._folders.frontends_file):
            left.unlink(missing_ok=True)
        taken = await self._standby.take(command)
        if taken is not None:
            self._was_standby, self._was_imported = taken.was_standby, not taken.was_standby
            return taken.process
        # Now that no process has files there.
        await asyncio.to_thread(self._folders.clear)
        return await self._spawn(command.argv, command.environ, on_line=self._log.on_line, cwd=Path.cwd())

    async def _until_ready(self, process: EngineProcess, planned: str) -> float:
        """Wait for a first token of each frontend; returns how long the slower took from its request."""
        name = self._settings.served_names[0]
        tokens = FirstTokens(self._board, name, self._folders.frontends_file)
        async with (
            self._client(_START_ANSWER_SECONDS) as client,
            self._client(_START_ANSWER_SECONDS, self._folders.rust_socket) as rust_client,
        ):
            exited = asyncio.ensure_future(process.wait())
            ready = asyncio.ensure_future(tokens.generated(client, rust_client, planned))
            lost = asyncio.ensure_future(self._group.lost())
            ends: set[asyncio.Future[Any]] = {exited, ready, lost}
            try:
                timeout = self._settings.startup_timeout_seconds
                if self._was_standby:
                    timeout = min(timeout, max(_LEAST_STANDBY_SECONDS, 2 * self._longest_start))
                await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                while tokens.cannot_ask and not any(end.done() for end in ends):
                    # Not knowing whether it is ready is no reason to end it.
                    await asyncio.wait(ends, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                if ready.done() and ready.exception() is None:
                    return ready.result()
                if lost.done():
                    self._was_standby = False  # the node has failed, not the standby
                    raise StartupError(await self._log.diagnose(process, lost.result()))
                if exited.done():
                    told = await self._group.explained(await self._log.diagnose(process))
                    raise (RefusedError if told.is_setting else StartupError)(told)
                raise StartupTimeoutError(self._log.diagnose_late(process))
            finally:
                for task in ends:
                    task.cancel()
                await asyncio.gather(*ends, return_exceptions=True)

    async def _watch(
        self, process: EngineProcess, launch: Launch, command: EngineCommand, token_seconds: float
    ) -> None:
        """Watch the engine, a standby beside it, until it is lost, or has been idle and is wanted again."""
        step_limit = StepLimit(self._settings.hang_timeout_seconds)
        step_limit.completed(token_seconds)
        async with contextlib.AsyncExitStack() as stack:
            clients = {
                frontend: await stack.enter_async_context(self._client(_HEALTH_SECONDS, path))
                for frontend, path in self._folders.sockets_of(self._board.current.frontends).items()
            }
            settings, name = self._settings, self._settings.served_names[0]
            checks = IdleChecks.of_nodes(
                settings.nodes, settings.canary_interval_seconds, settings.hang_timeout_seconds
            )
            state = functools.partial(children_state, on_cpu=launch.on_cpu)
            watchdog = Watchdog(
                process, clients, self._activity, name, step_limit, checks, state, self._group.lost
            )
            keeping = asyncio.ensure_future(self._standby.keep(command, process.pid))
            try:
                loss = await until_lost_or_idle(watchdog.until_lost(), self._demand, self._board)
            finally:
                keeping.cancel()
        if loss is None:
            await asyncio.gather(keeping, return_exceptions=True)
            await self._rest(command, process.pid)
            return
        told = await self._log.diagnose(process, self._group.named(loss))
        error = EngineError(await self._group.explained(told))
        await asyncio.gather(keeping, return_exceptions=True)
        raise error

    async def _rest(self, command: EngineCommand, pid: int) -> None:
        """Free what the idle engine takes, keep a standby, and wait until the engine is wanted again."""
        seconds = self._demand.idle_stop_seconds
        logger.info("idle for %g s: stopping the engine; the next request starts it again", seconds)
        began = self._clock()
        await self._end_process()
        logger.info("the engine was stopped in %.1f s", self._clock() - began)
        keeping = asyncio.ensure_future(self._standby.keep(command, pid))
        try:
            await self._demand.until_wanted()
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        if self._board.current.state is not EngineState.IDLE:
            await asyncio.Event().wait()  # draining: `run` is about to be cancelled
        logger.info("a request has come: starting the engine")
        self._board.restart()

    async def _end(self) -> None:
        await self._standby.close()
        await self._end_process()

    async def _end_process(self) -> None:
        self._group.over()
        self._log.is_stopping = True
        if self._process is not None:
            grace = STOP_GRACE_SECONDS if self._has_served else START_STOP_GRACE_SECONDS
            await self._process.stop(grace)
            self._process = None  # not before: whoever is cancelled here has it stopped again

    def _client(self, timeout_seconds: float, socket: Path | None = None) -> ControlClient:
        return self._connect(socket or self._socket, timeout_seconds=timeout_seconds, own=self._activity.own)
