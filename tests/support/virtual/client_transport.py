"""A client's end of a connection that tests play: no socket, no time, everything it was sent."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, cast

ESTABLISHED, CLOSED, FINISHED = 1, 7, 8  # TCP_ESTABLISHED, TCP_CLOSE, TCP_CLOSE_WAIT of <netinet/tcp.h>

_SOCKET = socket.socket(socket.AF_UNIX)
"""An empty one, for ioctl."""


class _Kernel:
    """What a socket tells of a client."""

    def __init__(self) -> None:
        self.state = ESTABLISHED
        self.acknowledged = 0

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return struct.pack("B119xQ", self.state, self.acknowledged)[:size]

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        self.linger = value

    def fileno(self) -> int:
        return _SOCKET.fileno()

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 50_000

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 8000


class ClientTransport(asyncio.Transport):
    """Takes what is written at once, unless `unsent` says that it waits for the client."""

    def __init__(self, protocol: asyncio.Protocol | None = None, *, tls: bool = False) -> None:
        self.client = _Kernel()
        super().__init__({"socket": self.client} | ({"sslcontext": object()} if tls else {}))
        self.written = b""
        self.unsent = 0
        self.is_reading_ = True
        self.is_half_closed = False
        self.is_cut = False
        self._is_tls = tls
        self._is_closing = False
        self._protocol = protocol

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self.written += data

    def write_eof(self) -> None:
        self.is_half_closed = True

    def can_write_eof(self) -> bool:
        return not self._is_tls

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.is_reading_ = False

    def resume_reading(self) -> None:
        self.is_reading_ = True

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if self._protocol is not None and not self.unsent:
                asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.unsent = 0
        self.is_cut = True
        self._is_closing = False
        self.close()


def transport_of(protocol: asyncio.Protocol, *, tls: bool = False) -> ClientTransport:
    """Return the transport of a connection that has just been made."""
    transport = ClientTransport(protocol, tls=tls)
    protocol.connection_made(cast(asyncio.BaseTransport, transport))
    return transport
