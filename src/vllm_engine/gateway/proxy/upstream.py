"""The engine's socket, with a pool of idle connections to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import choice

from vllm_engine.gateway.proxy.upstream_connection import UpstreamConnection, UpstreamError, own_shortage
from vllm_engine.system.shortage import is_own_shortage

POOL_KEEP_ALIVE_SECONDS = 60.0
"""Idle connections are closed by us, long before vLLM would close them (see `plan.engine_command`)."""

_CONNECT_SECONDS = 10.0


class Upstream:
    """Connects to the engine, or hands out a connection that is idle.

    There are never more than requests were at the engine at once, which is bounded by `MAX_IN_FLIGHT`.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self._idle: dict[UpstreamConnection, asyncio.TimerHandle] = {}

    async def connect(self, *, fresh: bool = False) -> UpstreamConnection:
        """Return an idle connection, or a new one where there is none or a fresh one is asked for.

        Raises:
            UpstreamError: the engine does not accept connections, or we cannot make one.
        """
        while self._idle and not fresh:
            # Any of them: several that ended together are often of the same API server of vLLM's.
            connection = choice(list(self._idle))  # noqa: S311 - no secret
            self.forget(connection)
            if connection.is_quiet:
                connection.reused = True
                return connection
            connection.abort()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_unix_connection(
                    lambda: UpstreamConnection(self.keep, self.forget), self._socket
                )
        except OSError as error:  # TimeoutError is one
            if is_own_shortage(error):
                raise own_shortage(error) from error
            raise UpstreamError(
                f"the engine does not accept connections ({error!r})", is_unread=True
            ) from error
        return connection

    def keep(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request."""
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.call_later(POOL_KEEP_ALIVE_SECONDS, connection.abort)

    def forget(self, connection: UpstreamConnection) -> None:
        """Drop a connection that has been closed."""
        if (expiry := self._idle.pop(connection, None)) is not None:
            expiry.cancel()

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            connection, expiry = self._idle.popitem()
            expiry.cancel()
            connection.abort()
