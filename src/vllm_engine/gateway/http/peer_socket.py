"""What the kernel knows of a connection's peer (Linux, tcp(7))."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from dataclasses import dataclass
from enum import Enum, auto

_CLOSE, _CLOSE_WAIT = 7, 8  # TCP_CLOSE, TCP_CLOSE_WAIT of <netinet/tcp.h>
_INFO_BYTES = 128
_ACKED_AT = 120  # tcpi_bytes_acked of struct tcp_info


class PeerState(Enum):
    """What the peer has done to the connection."""

    OPEN = auto()
    FINISHED = auto()
    """It has closed its sending side, or all of it: a FIN says either."""
    GONE = auto()
    """It has reset the connection."""


@dataclass(frozen=True)
class Delivery:
    """How many bytes the peer has received, and how many still wait for it."""

    acknowledged: int
    unsent: int
    """Bytes that the transport and the kernel still hold."""

    def since(self, before: Delivery) -> int:
        """Return how many bytes were received since then."""
        # Some sandboxes' kernels (gVisor) do not count what is acknowledged.
        return max(self.acknowledged - before.acknowledged, before.unsent - self.unsent)


def state_of(transport: asyncio.Transport) -> PeerState:
    """Return what the peer has done, whether or not anything is read from it."""
    try:
        state = _socket(transport).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return PeerState.GONE
    if state == _CLOSE:
        return PeerState.GONE
    return PeerState.FINISHED if state == _CLOSE_WAIT else PeerState.OPEN


def delivery_of(transport: asyncio.Transport) -> Delivery:
    """Return how many bytes the peer has received so far."""
    try:
        connection = _socket(transport)
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        queued = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    except OSError:
        return Delivery(0, transport.get_write_buffer_size())
    acknowledged = struct.unpack_from("Q", info, _ACKED_AT)[0] if len(info) >= _INFO_BYTES else 0
    return Delivery(acknowledged, transport.get_write_buffer_size() + queued)


def forget_unsent(transport: asyncio.Transport) -> None:
    """Have the kernel drop what it still holds for the peer when the connection is cut.

    It would keep megabytes for minutes, for a client that does not read (`SO_LINGER`, socket(7)).
    """
    with contextlib.suppress(OSError):
        _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _socket(transport: asyncio.Transport) -> socket.socket:
    found: socket.socket = transport.get_extra_info("socket")
    return found
