"""What the kernel knows of a connection's other side (Linux, tcp(7))."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

_CLOSE, _CLOSE_WAIT = 7, 8  # TCP_CLOSE, TCP_CLOSE_WAIT of <netinet/tcp.h>
_LOOK_SECONDS = 0.1
_ASK_AGAIN_SECONDS = 15.0
_INFO_BYTES = 128
_ACKED_AT = 120  # tcpi_bytes_acked of struct tcp_info


class PeerState(Enum):
    """Where the other side stands."""

    OPEN = auto()
    FINISHED = auto()
    """It has closed its sending side, or all of it: a FIN says either."""
    GONE = auto()
    """It has reset the connection."""


@dataclass(frozen=True)
class Taken:
    """How far the other side has read."""

    acknowledged: int
    waiting: int
    """Bytes that the transport and the kernel still hold."""

    def since(self, before: Taken) -> int:
        """Return how many bytes were taken since then."""
        # Some sandboxes' kernels (gVisor) do not count what is acknowledged.
        return max(self.acknowledged - before.acknowledged, before.waiting - self.waiting)


def state_of(transport: asyncio.Transport) -> PeerState:
    """Return where the other side stands, whether or not anything is read from it."""
    try:
        state = _socket(transport).getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return PeerState.GONE
    if state == _CLOSE:
        return PeerState.GONE
    return PeerState.FINISHED if state == _CLOSE_WAIT else PeerState.OPEN


def taken_of(transport: asyncio.Transport) -> Taken:
    """Return how far the other side has read."""
    try:
        connection = _socket(transport)
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        queued = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    except OSError:
        return Taken(0, transport.get_write_buffer_size())
    acknowledged = struct.unpack_from("Q", info, _ACKED_AT)[0] if len(info) >= _INFO_BYTES else 0
    return Taken(acknowledged, transport.get_write_buffer_size() + queued)


def forget_unsent(transport: asyncio.Transport) -> None:
    """Have the kernel drop what it still holds for the other side when the connection is cut.

    It would keep megabytes for minutes, for a client that does not read (`SO_LINGER`, socket(7)).
    """
    with contextlib.suppress(OSError):
        _socket(transport).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _socket(transport: asyncio.Transport) -> socket.socket:
    found: socket.socket = transport.get_extra_info("socket")
    return found


class PeerWatch:
    """Finds out whether a client that sends no more still reads, or has left.

    After a FIN only something that is written tells the two apart: one that has closed answers it with a
    reset, which the kernel notes although nothing is read.
    """

    __slots__ = ("_ask", "_asked", "_gone", "_loop", "_timer", "_transport")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        ask: Callable[[], bool],
        gone: Callable[[], None],
    ) -> None:
        """Make a watch that is not yet started.

        Args:
            loop: the event loop.
            transport: the connection.
            ask: writes something that means nothing; False where that is not possible.
            gone: called once when the client has left, or cannot be asked.
        """
        self._loop = loop
        self._transport = transport
        self._ask = ask
        self._gone = gone
        self._asked = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, patience_seconds: float) -> None:
        """Begin to look, unless that goes on already.

        Args:
            patience_seconds: when to ask for the first time: an answer that comes sooner needs no question.
        """
        if self._timer is None:
            self._asked = self._loop.time() + patience_seconds - _ASK_AGAIN_SECONDS
            self._timer = self._loop.call_later(0, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        state = state_of(self._transport)
        now = self._loop.time()
        if state is PeerState.FINISHED and now - self._asked >= _ASK_AGAIN_SECONDS:
            self._asked = now
            if not self._ask():
                state = PeerState.GONE
        if state is PeerState.GONE:
            self._gone()
            return
        self._timer = self._loop.call_later(_LOOK_SECONDS, self._look)
