"""Starts and memory with the real engine, one server at a time: Python alone beside both frontends."""

from __future__ import annotations

import time

from perf.frontends.frontend_rows import Rows
from perf.frontends.frontend_servers import FrontendRig, until_ready
from perf.frontends.process_roles import memory_mib
from perf.gpu.servers import Failed, Server

STARTED = ("ours-python", "ours-both")
_SETTLE_SECONDS = 2.0


def measure(rig: FrontendRig, rows: Rows, rounds: int, seconds: float) -> None:
    """Start each in turn, every other round in the opposite order; the first of all warms the caches and does not count."""
    for number in range(-1, rounds):
        for name in STARTED[:1] if number < 0 else STARTED if number % 2 == 0 else reversed(STARTED):
            server = rig.start(name)
            try:
                took = until_ready(server, seconds)
                if number >= 0:
                    rows.add(_row(server, number, took))
            except Failed as error:
                rows.add({"what": "failed", "server": name, "error": str(error)})
            finally:
                server.stop()


def _row(server: Server, number: int, took: float) -> dict[str, object]:
    time.sleep(_SETTLE_SECONDS)
    row = {"what": "start", "server": server.name, "round": number, "seconds": round(took, 2)}
    return {**row, "memory_mib": memory_mib(server)}
