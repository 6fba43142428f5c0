"""Starts the engine once and stops it, so that what it compiles is in the cache for the next start."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

from vllm_engine.cli.screen.start_display import Presenter
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings
from vllm_engine.engine.engine_state import StatusReader
from vllm_engine.gateway.http.listening_sockets import listen
from vllm_engine.plan.preflight import run_preflight
from vllm_engine.serve import serve

_LOOPBACK = "127.0.0.1"


async def warm(settings: Settings, environment: Environment, prefix: Path, presenter: Presenter) -> None:
    """Serve on a free port of the loopback interface until ready, then stop.

    Raises:
        SettingsError: a setting is invalid.
        EngineError: the engine does not start.
        VllmEngineError: its start could not be followed to the end.
    """
    settings = settings.model_copy(
        update={
            "host": _LOOPBACK,
            "port": _free_port(),
            "health_port": None,
            "tls_cert_file": None,
            "tls_key_file": None,
            "on_fatal": "exit",
            "lame_duck_seconds": 0.0,
        }
    )
    preflight = run_preflight(settings, environment, prefix)

    async def stop_when_ready(status: StatusReader) -> None:
        if (await presenter.follow_start(status)).is_ready:
            os.kill(os.getpid(), signal.SIGTERM)  # as a process manager stops it

    await serve(preflight, listen(settings), stop_when_ready, is_essential=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
