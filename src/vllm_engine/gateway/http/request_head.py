"""What a request's head must be before it becomes a request for the application."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_HEADER_BYTES = 65_536
"""Request line and headers together; vLLM has the same limit (h11's)."""

_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)
"""RFC 3986, section 3.2.2, roughly: no space, slash or at-sign."""


class HeadError(Exception):
    """The head is refused, with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def speaks_http(data: bytes) -> bool:
    """Return whether the first line, if it is complete, ends with a version of HTTP/1.

    The parser accepts HTTP/0.9 and RTSP, which has methods of the same names.
    """
    end = data.find(b"\r\n")
    return end <= 0 or data[:end].endswith((b" HTTP/1.0", b" HTTP/1.1"))


def check_head(method: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse what the parser accepts and this server does not.

    Raises:
        HeadError: CONNECT, an unknown version, or not exactly one valid Host (RFC 9112, section 3.2).
    """
    if method == b"CONNECT":
        raise HeadError(405, "CONNECT is not allowed: this server is not a forward proxy")
    if version not in ("1.0", "1.1"):
        raise HeadError(400, f"HTTP/{version} is not supported; expected HTTP/1.1")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise HeadError(400, f"The request has {len(hosts) or 'no'} Host headers; expected exactly one")
    if hosts and not _HOST.fullmatch(hosts[0].strip(b" \t")):
        raise HeadError(
            400, "The request's Host header is not valid; expected a host name or address, and perhaps a port"
        )


def body_bytes(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Return the length of the body that follows a valid head; None for a chunked one."""
    length: int | None = 0
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            return None
    return length


def without_upgrade(method: bytes, url: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the head as it would be if no upgrade had been offered."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    lines += [b"%b: %b" % pair for pair in headers if pair[0] != b"upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"
