"""What clients connect to: the application, served on both ports."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from vllm_engine.config.settings import Settings
from vllm_engine.gateway.app import Gateway
from vllm_engine.gateway.http.http_server import Server, running
from vllm_engine.gateway.http.incoming import ConnectionLimits
from vllm_engine.gateway.http.listening_sockets import Listeners
from vllm_engine.gateway.local.local_routes import HealthPort
from vllm_engine.gateway.settings_check import client_connections


@dataclass(frozen=True)
class Front:
    """The application and the server of its connections."""

    gateway: Gateway
    server: Server

    def begin_lame_duck(self) -> None:
        """Go on serving, and ask clients to close their pooled connections."""
        self.gateway.begin_lame_duck()
        self.server.announce_close()

    def begin_drain(self) -> None:
        """Let the answers that are under way end, and begin no new ones."""
        self.gateway.begin_drain()
        self.server.close_idle()


@contextlib.asynccontextmanager
async def open_front(
    settings: Settings, gateway: Gateway, listeners: Listeners, files: int
) -> AsyncIterator[Front]:
    """Serve the application on its sockets, which are closed at the end; `files` may be open at once."""
    shares = client_connections(settings, files)
    async with contextlib.AsyncExitStack() as servers:
        if listeners.health:
            # The first to open and the last to close: probes are answered as long as the API is.
            health = running(
                HealthPort(gateway.local, gateway.finished),
                listeners.health,
                _connection_limits(settings, shares.health),
                keep_alive_seconds=settings.client_keep_alive_seconds,
                lifespan="off",
            )
            await servers.enter_async_context(health)
        api = running(
            _application(settings, gateway),
            listeners.api,
            _connection_limits(settings, shares.api),
            keep_alive_seconds=settings.client_keep_alive_seconds,
            tls=listeners.tls,
            lifespan="off" if settings.is_worker else "on",
        )
        yield Front(gateway, await servers.enter_async_context(api))


def _application(settings: Settings, gateway: Gateway) -> Gateway | HealthPort:
    """Return what is served on `PORT`: a worker has no API."""
    if not settings.is_worker:
        return gateway
    node = f"This is node {settings.node_rank} of {settings.nodes}, a worker"
    elsewhere = f"{node}; the API is on the head, {settings.head_address}"
    return HealthPort(gateway.local, gateway.finished, elsewhere)


def _connection_limits(settings: Settings, connections: int) -> ConnectionLimits:
    return ConnectionLimits(
        header_timeout_seconds=settings.header_timeout_seconds,
        send_timeout_seconds=settings.send_timeout_seconds,
        max_connections=connections,
    )
