"""Pure: what a request's head must be before anybody looks at what it asks for."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_HEADER_BYTES = 65_536
"""Request line and headers together; vLLM's own limit (h11's) is the same."""

_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*", re.ASCII)
"""RFC 3986, section 3.2.2, roughly: no blank, slash or at-sign."""


class HeadError(Exception):
    """The head cannot be taken; carries the status of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def speaks_http(data: bytes) -> bool:
    """Say whether the first line of what came, if it is whole, ends with a version of HTTP/1.

    The parser takes HTTP/0.9 and RTSP, which has methods of the same names.
    """
    end = data.find(b"\r\n")
    return end <= 0 or data[:end].endswith((b" HTTP/1.0", b" HTTP/1.1"))


def check_head(method: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Refuse what the parser lets through.

    Raises:
        HeadError: CONNECT; a version that is none; not exactly one valid Host (RFC 9112, section 3.2).
    """
    if method == b"CONNECT":
        raise HeadError(405, "CONNECT is not allowed: this is no proxy to elsewhere")
    if version not in ("1.0", "1.1"):
        raise HeadError(400, f"HTTP/{version} is not supported; use HTTP/1.1")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise HeadError(400, f"The request has {len(hosts) or 'no'} Host headers; exactly one is needed")
    if hosts and not _HOST.fullmatch(hosts[0].strip(b" \t")):
        raise HeadError(400, "The request's Host header is not valid")


def body_bytes(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Return the length of the body that follows a head which was taken; None if only its end tells."""
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
