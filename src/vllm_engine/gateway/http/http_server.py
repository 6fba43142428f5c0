"""Serves an application on listening sockets: uvicorn's server with connections of our own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

from vllm_engine.gateway.http.acceptor import Acceptor
from vllm_engine.gateway.http.client_connection import ClientConnection
from vllm_engine.gateway.http.incoming import ConnectionLimits, ConnectionsState
from vllm_engine.gateway.http.tls import Tls

_LAST_ANSWERS_SECONDS = 5
_TOLD_TO_COME_BACK = 8
"""Connections beyond the limit that are answered with 503; what comes beyond these is closed at once."""


class Server(uvicorn.Server):
    """A server whose connections are bounded, and can be asked to leave one by one."""

    server_state: ConnectionsState

    def __init__(self, config: uvicorn.Config, limits: ConnectionLimits) -> None:
        super().__init__(config)
        self.server_state = ConnectionsState(limits)
        self._acceptor: Acceptor | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals alone: uvicorn would refuse connections at the first SIGTERM."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections."""
        await super().startup(sockets=[])
        limits = self.server_state.limits
        self._acceptor = Acceptor(
            sockets or (),
            functools.partial(
                ClientConnection,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            ),
            self._has_room,
            tls=self.config.ssl,
            handshake_seconds=limits.header_timeout_seconds,
        )
        self._acceptor.start()

    def _has_room(self, more: int) -> bool:
        most = self.server_state.limits.max_connections + _TOLD_TO_COME_BACK
        return len(self.server_state.connections) + more < most

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, let answers end, and stop the application."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown(sockets)

    def announce_close(self) -> None:
        """Close each connection after its next answer, which says so (`Connection: close`).

        Clients that pool connections go elsewhere then, without an error (RFC 9112, section 9.6).
        """
        self.server_state.is_leaving = True
        for connection in self._connections():
            connection.announce_close()

    def close_idle(self) -> None:
        """Close each connection now that waits for a request, and the others after their answers."""
        self.server_state.is_leaving = True
        for connection in self._connections():
            connection.shutdown()

    def _connections(self) -> Sequence[ClientConnection]:
        return tuple(c for c in self.server_state.connections if isinstance(c, ClientConnection))


@contextlib.asynccontextmanager
async def running(
    app: ASGIApp,
    listeners: Sequence[socket.socket],
    limits: ConnectionLimits,
    *,
    keep_alive_seconds: float,
    tls: Tls | None = None,
    lifespan: Literal["on", "off"] = "on",
) -> AsyncIterator[Server]:
    """Serve an application on sockets; at the end, give running answers a few seconds.

    Args:
        app: the application.
        listeners: listening sockets that do not block; they are closed at the end.
        limits: what clients may do.
        keep_alive_seconds: how long a connection may wait for its next request.
        tls: what to speak; None for plain connections.
        lifespan: whether the application is told of the start and the end.
    """
    config = uvicorn.Config(
        app,
        http=ClientConnection,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        # Given, so that WEB_CONCURRENCY and FORWARDED_ALLOW_IPS of the environment are not read.
        workers=1,
        forwarded_allow_ips="127.0.0.1",
        timeout_keep_alive=keep_alive_seconds,  # type: ignore[arg-type]  # it is given to call_later
        timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS,
        ssl_context_factory=(lambda *_: tls.context) if tls else None,
    )
    server = Server(config, limits)
    task = asyncio.create_task(server.serve(sockets=list(listeners)))
    watching = asyncio.create_task(tls.watch_expiry()) if tls else None
    try:
        yield server
    finally:
        if watching is not None:
            watching.cancel()
        server.should_exit = True
        await task
