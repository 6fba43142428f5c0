"""One id per request: the client's where it is usable, else a new one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

REQUEST_ID = b"x-request-id"

_USABLE = re.compile(rb"[\x21-\x7e]{1,128}")
"""Printable and short: vLLM repeats a client's id in every chunk."""


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the request's id, from `X-Request-Id` if that is printable and at most 128 characters."""
    for name, value in headers:
        if name == REQUEST_ID and _USABLE.fullmatch(value):
            return value
    return os.urandom(16).hex().encode()
