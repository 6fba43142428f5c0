"""How many files may be open, and how many client connections that allows."""

from __future__ import annotations

import resource
from dataclasses import dataclass

_MOST = 1_048_576
"""Some container runtimes set a billion: programs that close every possible file take minutes then."""
_BASE = 160
"""Kept for ourselves: log, listeners, event loop, the engine's pipes and its processes' file descriptors,
a standby, scrapes, the hub's connections, files that are read in passing."""
_ENGINE_FILES = 2
"""Of a request at the engine: its connection, and one more descriptor while a large body is written."""
_HEALTH_CONNECTIONS = 64
"""On HEALTH_PORT, which is for this deployment's own machines."""


@dataclass(frozen=True)
class ConnectionShares:
    """How many client connections each port may have at once."""

    api: int
    health: int


def raise_file_limit() -> int:
    """Raise the soft limit on open files to the hard one, for the engine too; returns what holds now.

    It is 1,024 in most login shells for the sake of select(2), which nothing here uses; vLLM raises its own.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return _MOST if soft == resource.RLIM_INFINITY else soft


def connection_shares(
    files: int, *, max_connections: int, max_in_flight: int, has_health_port: bool
) -> ConnectionShares:
    """Return how many connections leave enough files for the engine and for ourselves.

    Args:
        files: how many may be open.
        max_connections: how many connections are wanted (`MAX_CONNECTIONS`).
        max_in_flight: how many requests may be at the engine (`MAX_IN_FLIGHT`).
        has_health_port: whether there is a second port to keep some for.
    """
    health = min(_HEALTH_CONNECTIONS, max_connections, files // 16) if has_health_port else 0
    room = files - min(_BASE, files // 2) - health
    # A connection is one file, and some more while its request is at the engine.
    each_at_engine = room // (1 + _ENGINE_FILES)
    api = each_at_engine if each_at_engine <= max_in_flight else room - _ENGINE_FILES * max_in_flight
    return ConnectionShares(max(1, min(max_connections, api)), max(1, health))
