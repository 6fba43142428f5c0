"""Accepts new connections, many at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterable

from vllm_engine.system.shortage import is_own_shortage

_AT_ONCE = 64
"""The event loop's own servers take one connection a turn: under load new ones would wait for many turns."""
_REST_SECONDS = 0.5
"""How long to accept nothing after an accept has failed for want of files or memory."""

logger = logging.getLogger("gateway")


class Acceptor:
    """Accepts connections and makes each one's protocol, with TLS after its handshake."""

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        has_room: Callable[[int], bool],
        *,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
    ) -> None:
        """Take listening sockets that do not block, whose owner closes them.

        `has_room` says, given how many connections have no protocol yet, whether there may be one more.
        """
        self._listeners = tuple(listeners)
        self._make_protocol = make_protocol
        self._has_room = has_room
        self._tls = tls
        self._handshake_seconds = handshake_seconds if tls else None
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._is_short = False

    def start(self) -> None:
        """Accept connections."""
        self._resting = None
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Accept no more, and drop connections that are not ready yet."""
        if self._resting is not None:
            self._resting.cancel()
        self._stop_reading()
        for task in self._connecting:
            task.cancel()

    def _stop_reading(self) -> None:
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._rest(error)
                return
            self._is_short = False
            if not self._has_room(len(self._connecting)):
                connection.close()
                continue
            connection.setblocking(False)
            task = self._loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_seconds,
            )
        except OSError as error:
            # A handshake that failed or took too long, or a client that has disconnected: not our fault.
            logger.debug("a connection was not made: %s", error)
            connection.close()

    def _rest(self, error: OSError) -> None:
        """Accept nothing for a moment: the connection still waits, and trying again at once would spin."""
        if not self._is_short:
            self._is_short = True
            why = "too few files or too little memory" if is_own_shortage(error) else "an error"
            logger.warning("no new connections for now: %s (%s); open ones go on", why, error.strerror)
        self._stop_reading()
        self._resting = self._loop.call_later(_REST_SECONDS, self.start)
