"""HTTP by hand: sockets for what no client library would send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

REPLY_SECONDS = 60.0
"""How long an answer may take; a real engine on a CPU may be given longer."""


class ClosedError(Exception):
    """The other side closed the connection where an answer was due."""


@dataclass(frozen=True)
class Reply:
    """An answer, taken apart but not read."""

    status: int
    headers: list[tuple[str, str]]
    """In their order, names as they were spelt."""
    chunks: list[bytes]
    """The body as it was framed: one piece where it was not chunked."""

    @cached_property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    def header(self, name: str) -> str | None:
        """Return the first header of this name, if there is one."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


class Wire:
    """One connection to a server: what is sent is sent as it is, answers are taken one by one."""

    def __init__(self, connection: socket.socket, seconds: float = REPLY_SECONDS) -> None:
        connection.settimeout(seconds)
        self.socket = connection
        self._received = b""

    def send(self, data: bytes) -> bool:
        """Send all of it; False where the other side had closed before it was all taken."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def ask(self, data: bytes) -> Reply:
        """Send a request and return its answer."""
        self.send(data)
        return self.reply(is_head=data.startswith(b"HEAD "))

    def reply(self, *, is_head: bool = False) -> Reply:
        """Return the next answer.

        Raises:
            ClosedError: the connection was closed before the answer was complete.
        """
        status_line, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, code, *_ = status_line.split(" ")
        assert version == "HTTP/1.1", status_line
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        return Reply(int(code), headers, list(self._body(int(code), headers, is_head)))

    def rest(self) -> bytes:
        """Return everything until the other side closes."""
        while self._receive():
            pass
        rest, self._received = self._received, b""
        return rest

    def _body(self, status: int, headers: list[tuple[str, str]], is_head: bool) -> Iterator[bytes]:
        named = {name.lower(): value for name, value in headers}
        if is_head or status < 200 or status in (204, 304):
            return
        if named.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                yield self._exactly(size)
                assert self._exactly(2) == b"\r\n"
            self._until(b"\r\n")
        elif (length := named.get("content-length")) is not None:
            yield self._exactly(int(length))
        else:
            yield self.rest()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._received:
            if not self._receive():
                raise ClosedError(f"the connection was closed after {self._received!r:.300}")
        found, _, self._received = self._received.partition(mark)
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            if not self._receive():
                raise ClosedError(f"closed {size - len(self._received)} bytes before the end of a body")
        found, self._received = self._received[:size], self._received[size:]
        return found

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._received += data
        return bool(data)


@contextmanager
def wire(address: int | Path, seconds: float = REPLY_SECONDS) -> Iterator[Wire]:
    """Connect to a port of this machine, or to a Unix socket."""
    connection = socket.socket(socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET)
    with connection:
        connection.settimeout(seconds)
        connection.connect(str(address) if isinstance(address, Path) else ("127.0.0.1", address))
        yield Wire(connection, seconds)


@contextmanager
def slow_reader(port: int, data: bytes) -> Iterator[Wire]:
    """Send a request from a client whose own buffer is small, and that reads nothing of itself."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        slow = Wire(connection)
        slow.send(data)
        yield slow


def request(method: str, target: str, body: bytes | None = None, *headers: str) -> bytes:
    """Spell a proper request; further headers as whole lines."""
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def post_json(target: str, value: object, *headers: str) -> bytes:
    """Spell a proper request with a body in JSON."""
    return request("POST", target, json.dumps(value).encode(), "Content-Type: application/json", *headers)


def chunk(data: bytes) -> bytes:
    """Frame one chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)
