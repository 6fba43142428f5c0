"""Serves an application on listening sockets, over connections that are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from starlette.types import ASGIApp

from vllm_engine.gateway.http.acceptor import Acceptor
from vllm_engine.gateway.http.client_connection import ClientConnection
from vllm_engine.gateway.http.incoming import ConnectionLimits
from vllm_engine.gateway.http.tls import Tls
from vllm_engine.gateway.http.uvicorn_adapter import UvicornServer

_REFUSED_WITH_503 = 8
"""Connections beyond the limit that are answered with 503; those beyond these are closed at once."""


class Server(UvicornServer):
    """A server whose connections are bounded, and can be closed one by one."""

    def __init__(
        self,
        app: ASGIApp,
        limits: ConnectionLimits,
        *,
        keep_alive_seconds: float,
        tls: ssl.SSLContext | None,
        lifespan: Literal["on", "off"],
    ) -> None:
        super().__init__(app, keep_alive_seconds=keep_alive_seconds, tls=tls, lifespan=lifespan)
        self._limits = limits
        self._tls = tls
        self._acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections."""
        await super().startup()
        self._acceptor = Acceptor(
            sockets or (),
            lambda: ClientConnection(self, self._limits),
            self._has_room,
            tls=self._tls,
            handshake_seconds=self._limits.header_timeout_seconds,
        )
        self._acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, let responses end, and stop the application."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown(sockets)

    def _has_room(self, more: int) -> bool:
        return self.count_of_connections + more < self._limits.max_connections + _REFUSED_WITH_503

    def announce_close(self) -> None:
        """Close each connection after its next response, which says so (`Connection: close`).

        Clients that pool connections go elsewhere then, without an error (RFC 9112, section 9.6).
        """
        self.is_closing = True
        for connection in self.connections:
            connection.announce_close()

    def close_idle(self) -> None:
        """Close each connection now that waits for a request, and the others after their responses."""
        self.is_closing = True
        for connection in self.connections:
            connection.shutdown()


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
    """Serve an application on listening sockets that do not block.

    At the end responses that are under way get a few seconds, and the sockets are closed. A connection may
    wait `keep_alive_seconds` for its next request.
    """
    context = tls.context if tls else None
    server = Server(app, limits, keep_alive_seconds=keep_alive_seconds, tls=context, lifespan=lifespan)
    task = asyncio.create_task(server.serve(sockets=list(listeners)))
    watching = asyncio.create_task(tls.watch_expiry()) if tls else None
    try:
        yield server
    finally:
        if watching is not None:
            watching.cancel()
        server.should_exit = True
        await task
