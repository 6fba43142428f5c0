"""Composition root: makes the objects, owns the signals, orders start, drain and stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path

import uvicorn

from vllm_engine.engine.pulse import Pulse
from vllm_engine.engine.state import Phase, StatusBoard, StatusReader
from vllm_engine.engine.supervisor import Launch, Policy, Supervisor
from vllm_engine.engine.vitals import VitalLimits
from vllm_engine.errors import Problem, SettingsError
from vllm_engine.gateway.app import Gateway
from vllm_engine.gateway.build import build_gateway
from vllm_engine.gateway.connection import ConnectionLimits, connection_class
from vllm_engine.gateway.probes import Build
from vllm_engine.models.bundled import ConvertProgress
from vllm_engine.preflight import Preflight
from vllm_engine.resolve import resolve_command, resolve_plan
from vllm_engine.settings import Environment, Settings

Companion = Callable[[StatusReader], Awaitable[None]]
"""Something that runs beside the server and may read the status, such as the first question."""

_LAST_ANSWERS_SECONDS = 5
_CLIENT_KEEP_ALIVE_SECONDS = 75
"""Longer than the 60 s for which load balancers commonly keep a connection: they close first, not we."""

logger = logging.getLogger("gateway")


async def serve(
    settings: Settings,
    environment: Environment,
    preflight: Preflight,
    listener: socket.socket,
    companion: Companion | None = None,
) -> None:
    """Run the gateway and the engine until a signal; returns after a clean stop.

    Raises:
        SettingsError: the model shows that a setting cannot work.
        EngineError: the engine could not start, or died.
    """
    board = StatusBoard()
    pulse = Pulse()
    with _runtime_folder() as folder:
        path = folder / "engine.sock"
        supervisor = Supervisor(
            board,
            lambda: _prepare(settings, environment, preflight, path, board),
            socket=path,
            policy=_policy(settings),
            pulse=pulse,
        )
        gateway = build_gateway(settings, board, _build(settings, preflight), path, pulse)
        server = _Server(_server_config(settings, gateway))
        async with _running(server, listener):
            await _until_told_to_stop(settings, supervisor, gateway, companion and companion(board))


def _policy(settings: Settings) -> Policy:
    return Policy(
        startup_timeout_seconds=settings.startup_timeout_seconds,
        max_restarts=settings.max_restarts,
        restart_window_seconds=settings.restart_window_seconds,
        vitals=VitalLimits(settings.hang_timeout_seconds, settings.canary_interval_seconds),
    )


async def _prepare(
    settings: Settings, environment: Environment, preflight: Preflight, path: Path, board: StatusBoard
) -> Launch:
    def converting(progress: ConvertProgress) -> None:
        board.progress(Phase.PREPARING, progress.done / max(1, progress.total))

    plan = await resolve_plan(settings, environment, preflight, converting)
    for note in plan.notes:
        logger.info("%s", note)
    command = resolve_command(settings, environment, preflight, plan, path)
    return Launch(command, settings.served_names[0], plan.model.revision, plan.dtype.value)


def bind(settings: Settings) -> socket.socket:
    """Open the listening socket before anything is started.

    Raises:
        SettingsError: the address or the port cannot be had; says which and why.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        wanted = f"cannot be resolved ({error.strerror}); wanted an address of this machine, such as 0.0.0.0"
        raise SettingsError([Problem("HOST", settings.host, wanted)]) from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SettingsError([_bind_problem(settings, error)]) from error
    listener.setblocking(False)
    return listener


def _bind_problem(settings: Settings, error: OSError) -> Problem:
    port = str(settings.port)
    if error.errno == errno.EADDRINUSE:
        return Problem("PORT", port, "already in use; stop what listens there or set another PORT")
    if error.errno == errno.EACCES:
        return Problem("PORT", port, "needs root; set PORT to 1024 or above")
    return Problem("HOST", settings.host, f"cannot be listened on ({error.strerror}); try HOST=0.0.0.0")


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        # uvicorn would refuse connections at the first SIGTERM; ours is the order of things.
        yield


def _server_config(settings: Settings, app: Gateway) -> uvicorn.Config:
    limits = ConnectionLimits(settings.header_timeout_seconds, settings.max_connections)
    return uvicorn.Config(
        app,
        http=connection_class(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_CLIENT_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
    )


@contextlib.asynccontextmanager
async def _running(server: _Server, listener: socket.socket) -> AsyncIterator[None]:
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


async def _until_told_to_stop(
    settings: Settings, supervisor: Supervisor, gateway: Gateway, companion: Awaitable[None] | None
) -> None:
    told, hurried = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: (hurried if told.is_set() else told).set())
    engine = asyncio.create_task(supervisor.run())
    beside = asyncio.ensure_future(companion) if companion is not None else None
    stop = asyncio.create_task(told.wait())
    try:
        await asyncio.wait({engine, stop}, return_when=asyncio.FIRST_COMPLETED)
        if engine.done() and settings.on_fatal == "hold":
            logger.error("%s", engine.exception())
            logger.error("ON_FATAL=hold: staying up, not ready, until stopped")
            await stop
        if engine.done():
            await engine
        await _drain(settings, supervisor, gateway, hurried)
    finally:
        for task in filter(None, (engine, stop, beside)):
            task.cancel()
        await asyncio.gather(*filter(None, (engine, stop, beside)), return_exceptions=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    logger.info("stopped")


async def _drain(
    settings: Settings, supervisor: Supervisor, gateway: Gateway, hurried: asyncio.Event
) -> None:
    logger.info("stopping: %d request(s) may take %g s", gateway.in_flight, settings.drain_timeout_seconds)
    if settings.lame_duck_seconds:
        gateway.begin_lame_duck()
    supervisor.begin_drain()
    if settings.lame_duck_seconds:
        await _first_of(hurried.wait(), seconds=settings.lame_duck_seconds)
    gateway.begin_drain()
    await _first_of(gateway.until_idle(), hurried.wait(), seconds=settings.drain_timeout_seconds)
    if gateway.in_flight:
        logger.warning("%d request(s) are ended: DRAIN_TIMEOUT_SECONDS is over", gateway.in_flight)
        gateway.end_all()
        await _first_of(gateway.until_idle(), seconds=_LAST_ANSWERS_SECONDS)


async def _first_of(*waits: Awaitable[object], seconds: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


@contextlib.contextmanager
def _runtime_folder() -> Generator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="vllm-engine-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build(settings: Settings, preflight: Preflight) -> Build:
    return Build(
        sha=settings.build_sha,
        time=settings.build_time,
        vllm=preflight.installation.version,
        engine_python=preflight.installation.python_version,
        model_id=settings.model_id,
        model_revision=settings.model_revision,
        frontend=settings.engine_frontend,
        device=preflight.device.name,
    )
