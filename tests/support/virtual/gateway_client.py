"""The whole gateway in the test's own event loop, without sockets; its engine is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
from starlette.types import Receive, Scope, Send

from vllm_engine.config.settings import Settings
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_control import EngineControl
from vllm_engine.engine.engine_state import StatusBoard
from vllm_engine.engine.idle import ClientDemand
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.gateway.app import Gateway
from vllm_engine.gateway.build import build_gateway
from vllm_engine.gateway.http.client_stream import CLIENT_STREAM
from vllm_engine.gateway.local.local_routes import HealthPort
from vllm_engine.gateway.local.probes import Build

BUILD = Build("sha", "now", "0.32.0", "3.11", "org/model", None, "python", "a CPU")


@asynccontextmanager
async def gateway(
    folder: Path, *, board: StatusBoard | None = None, is_health: bool = False, **settings: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, Gateway]]:
    """Yield a client of a gateway whose engine is not there, and the gateway."""
    folders = EngineFolders(folder, folder)
    board = board or StatusBoard()
    control = EngineControl(folders.socket, folders.rust_socket, board)
    parts = (board, BUILD, folders, EngineActivity(), ClientDemand(), control)
    made = build_gateway(Settings(CACHE_DIR=str(folder), **settings), *parts)
    app = HealthPort(made.local, made.finished) if is_health else made

    async def connected(scope: Scope, receive: Receive, send: Send) -> None:
        client = SimpleNamespace(
            is_disconnected=False, on_disconnect=None, has_whole_body=True, watch_for_disconnect=lambda: None
        )
        await app({**scope, "extensions": {CLIENT_STREAM: client}}, receive, send)

    transport = httpx2.ASGITransport(app=connected)
    async with control, httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client, made
