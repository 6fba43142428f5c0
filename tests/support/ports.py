"""TCP ports for tests: claimed for as long as this process runs, so that two tests never get the same one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

_FIRST, _LAST = 10_000, 32_000
"""Below what Linux gives to clients and to those who bind port 0."""
_PER_WORKER = 1_000
_CLAIMS: list[socket.socket] = []


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on and no other test process will get."""
    for port in _PORTS:
        # An abstract socket's name has one owner on this machine, and is free when its owner ends.
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0vllm-engine-test-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        return port
    raise AssertionError("no port is free")


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker * _PER_WORKER % (_LAST - _FIRST)
    yield from range(first, _LAST)
    yield from range(_FIRST, first)


_PORTS = _ports()
