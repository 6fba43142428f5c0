"""The limit on open files, and how many client connections it allows."""

from __future__ import annotations

import resource
from dataclasses import dataclass

_MOST = 1_048_576
"""Some container runtimes set a billion: programs that close every possible file then take minutes."""
_BASE = 160
"""Reserved for the rest: log, listeners, event loop, the engine's pipes and process descriptors, a standby,
metrics scrapes, connections to the hub, files that are read briefly."""
_ENGINE_FILES = 2
"""For a request at the engine: its connection, and one more while a large body is written."""
_HEALTH_CONNECTIONS = 64
"""On HEALTH_PORT, which only the deployment's own machines use."""


@dataclass(frozen=True)
class ConnectionShares:
    """The maximum of concurrent client connections on each port.

    Attributes:
        files_needed: the limit on open files with which `api` would be the configured maximum.
    """

    api: int
    health: int
    files_needed: int


def highest_file_limit() -> int:
    """Return the limit on open files that `raise_file_limit` sets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST
    return max(soft, _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST))


def raise_file_limit() -> int:
    """Raise the soft limit on open files to the hard limit, for the engine too; returns the new limit.

    Most login shells set 1,024 because of select(2), which nothing here uses.
    """
    most = highest_file_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def connection_shares(
    files: int, *, max_connections: int, max_in_flight: int, has_health_port: bool
) -> ConnectionShares:
    """Return how many connections leave enough files for the engine and the gateway itself.

    Args:
        files: the limit on open files.
        max_connections: the configured maximum (`MAX_CONNECTIONS`).
        max_in_flight: the maximum of requests at the engine (`MAX_IN_FLIGHT`).
        has_health_port: whether to reserve some for a second port.
    """
    health = min(_HEALTH_CONNECTIONS, max_connections, files // 16) if has_health_port else 0
    room = files - min(_BASE, files // 2) - health
    # A connection is one file, and two more while its request is at the engine.
    api = max(room // (1 + _ENGINE_FILES), room - _ENGINE_FILES * max_in_flight)
    needed = max_connections + _ENGINE_FILES * min(max_connections, max_in_flight) + _BASE
    if has_health_port:
        needed += min(_HEALTH_CONNECTIONS, max_connections)
    return ConnectionShares(max(1, min(max_connections, api)), max(1, health), needed)
