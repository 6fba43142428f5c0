"""Composition root: builds the rooms, owns the signals, and orders start, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from math import nan
from typing import Any

from vllm_engine.config.library_variables import temporary_roots
from vllm_engine.config.own_address import health_url
from vllm_engine.config.settings import Settings
from vllm_engine.diagnosis.explainer import Explainer
from vllm_engine.diagnosis.termination import write_termination_log
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_control import EngineControl
from vllm_engine.engine.engine_state import StatusBoard, StatusReader
from vllm_engine.engine.idle import ClientDemand
from vllm_engine.engine.nodes.agreement import agreement
from vllm_engine.engine.nodes.head_group import HeadGroup
from vllm_engine.engine.nodes.worker_supervisor import WorkerSupervisor
from vllm_engine.engine.startup.engine_folders import engine_folders
from vllm_engine.engine.startup.preparation import Preparation
from vllm_engine.engine.startup.process_history import ProcessHistory
from vllm_engine.engine.startup.start_history import StartHistory, StartRecorder
from vllm_engine.engine.supervisor import Supervisor
from vllm_engine.errors import VllmEngineError
from vllm_engine.gateway.build import build_gateway
from vllm_engine.gateway.drain import drain
from vllm_engine.gateway.front import Front, open_front
from vllm_engine.gateway.http.listening_sockets import Listeners
from vllm_engine.gateway.local.operator_report import Machine, SettingRow
from vllm_engine.gateway.local.probes import Build
from vllm_engine.plan.configuration_report import EffectiveSettings
from vllm_engine.plan.engine_command import may_scale_out
from vllm_engine.plan.engine_plan import EnginePlan
from vllm_engine.plan.preflight import Preflight
from vllm_engine.system.device import gpu_loads
from vllm_engine.system.file_limit import raise_file_limit

Companion = Callable[[StatusReader], Awaitable[None]]
"""Something that runs beside the server and may read the status, such as the first question."""

_HEALTH_SECONDS = 5.0
"""How long a request whose engine may be dead waits for its /health."""

logger = logging.getLogger("gateway")


async def serve(
    preflight: Preflight,
    listeners: Listeners,
    companion: Companion | None = None,
    lines_dropped: Callable[[], int] = lambda: 0,
    *,
    is_essential: bool = False,
) -> None:
    """Run the gateway and the engine until a signal; returns after a clean stop.

    The failure of the companion, which runs beside the server, is logged; where it is essential it also stops
    the server and is raised. `lines_dropped` says how many lines the log could not write.

    Raises:
        SettingsError: the model shows that a setting cannot work.
        EngineError: the engine could not start, or died.
        VllmEngineError: an essential companion has failed.
    """
    settings = preflight.settings
    files = raise_file_limit()
    board, activity = StatusBoard(), EngineActivity()
    demand = ClientDemand(settings.idle_stop_seconds)
    explainer = Explainer(preflight)
    recorder = StartRecorder(board, StartHistory(settings.cache_dir / "starts.json"))
    with engine_folders(*temporary_roots()) as folders:
        effective = EffectiveSettings(preflight)
        folders.health_url_file.write_text(health_url(settings))

        def planned(preflight: Preflight, plan: EnginePlan) -> None:
            explainer.planned(preflight, plan)
            effective.planned(preflight, plan)

        processes = ProcessHistory(settings.cache_dir / "processes.json")
        preparation = Preparation(preflight, folders, board, recorder, planned, explainer.explain, processes)
        build = _build(preflight)
        async with contextlib.AsyncExitStack() as stack:
            supervisor = await stack.enter_async_context(_supervisor(preparation, activity, demand))
            asked = EngineControl(folders.socket, folders.rust_socket, board, timeout_seconds=_HEALTH_SECONDS)
            control = await stack.enter_async_context(asked)
            machine = _machine(preflight, effective, lines_dropped, listeners)
            scale_out = may_scale_out(preflight.flags)
            gateway = build_gateway(
                settings, board, build, folders, activity, demand, control, machine, has_scale_out=scale_out
            )
            stack.push_async_callback(gateway.close)
            front = await stack.enter_async_context(open_front(settings, gateway, listeners, files))
            beside = companion(board) if companion is not None else None
            await _run_until_stopped(settings, supervisor, front, beside, is_essential)


@contextlib.asynccontextmanager
async def _supervisor(
    preparation: Preparation, activity: EngineActivity, demand: ClientDemand
) -> AsyncIterator[Supervisor | WorkerSupervisor]:
    """Yield what keeps the engine running: the head's, which gathers the other nodes, or a worker's."""
    preflight, board = preparation.preflight, preparation.board
    settings, ours = preflight.settings, agreement(preflight)
    if settings.is_worker:
        yield WorkerSupervisor(board, preparation, preparation.explain, settings=settings, ours=ours)
        return
    async with HeadGroup(settings, ours, board.wait_for) as group:
        yield Supervisor(
            board,
            preparation,
            preparation.explain,
            folders=preparation.folders,
            settings=settings,
            activity=activity,
            demand=demand,
            group=group,
            foresee=preparation.foresee,
            remember=preparation.remember,
        )


async def _run_beside(work: Awaitable[None], stop: asyncio.Event, is_essential: bool) -> None:
    """Do the work of a companion; sets `stop` and raises if it fails and is essential."""
    try:
        await work
    except Exception as error:  # whatever it is, it is logged and must not end the server
        message = f"{type(error).__name__}: {error}"
        logger.error("what runs beside the server failed: %s", message)
        if is_essential:
            stop.set()
            raise VllmEngineError(message) from error


async def _run_until_stopped(
    settings: Settings,
    supervisor: Supervisor | WorkerSupervisor,
    front: Front,
    work: Awaitable[None] | None,
    is_essential: bool,
) -> None:
    """Run the engine until a signal, then drain; an engine that fails for good ends it sooner."""
    stop, hurry = asyncio.Event(), asyncio.Event()
    engine = asyncio.create_task(supervisor.run())
    stopped = asyncio.create_task(stop.wait())
    beside = asyncio.create_task(_run_beside(work, stop, is_essential)) if work is not None else None
    with _signals(stop, hurry):
        try:
            await asyncio.wait({engine, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if engine.done():
                _hold_or_raise(settings, engine)
                await stopped
            else:
                # Its own question is no client's: the drain does not wait for it.
                await _cancelled(beside)
                await drain(
                    front,
                    supervisor.begin_drain,
                    hurry,
                    lame_duck_seconds=settings.lame_duck_seconds,
                    timeout_seconds=settings.drain_timeout_seconds,
                    until=supervisor.released,
                )
        finally:
            await _cancelled(engine, stopped, beside)
    logger.info("stopped")
    if beside is not None and not beside.cancelled():
        beside.result()


async def _cancelled(*tasks: asyncio.Task[Any] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hurry: asyncio.Event) -> Generator[None]:
    """Set `stop` on SIGTERM, SIGINT or SIGHUP, and `hurry` when SIGTERM or SIGINT comes again.

    A terminal that closes may send SIGHUP more than once, so it never hurries. If ignored at the start,
    as by `nohup`, it stays ignored.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurry if stop.is_set() else stop).set())
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        # Until the loop is closed: the hangup of a shell may follow that of its terminal.
        loop.add_signal_handler(signal.SIGHUP, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _hold_or_raise(settings: Settings, engine: asyncio.Task[None]) -> None:
    """Return if the program is to stay up although the engine has failed; else raise the engine's error."""
    error = engine.exception()
    if error is None or settings.on_fatal != "hold":
        engine.result()
        return
    logger.error("%s", error)
    logger.error("ON_FATAL=hold: staying up, not ready, until stopped")
    write_termination_log(settings.termination_log, str(error))


def _machine(
    preflight: Preflight, effective: EffectiveSettings, lines_dropped: Callable[[], int], listeners: Listeners
) -> Machine:
    visible = preflight.environment.merged.get("CUDA_VISIBLE_DEVICES")
    return Machine(
        gpu_loads=partial(gpu_loads, visible) if preflight.device.kind == "cuda" else None,
        settings=lambda: [
            SettingRow(name=row.key, value=row.value, source=row.source) for row in effective.rows
        ],
        log_lines_dropped=lines_dropped,
        certificate_expiry=listeners.tls.expiry if listeners.tls else lambda: nan,
    )


def _build(preflight: Preflight) -> Build:
    settings = preflight.settings
    return Build(
        build_sha=settings.build_sha,
        build_time=settings.build_time,
        vllm=preflight.installation.version,
        engine_python=preflight.installation.python_version,
        model=settings.model_id,
        model_revision=settings.model_revision,
        frontend=settings.engine_frontend,
        device=preflight.device.name,
        node=f"rank {settings.node_rank} of {settings.nodes}" if settings.nodes > 1 else None,
    )
