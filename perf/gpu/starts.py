"""Times starts without caches, with them, and after the loss of EngineCore."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from perf.bench.cpu_usage import tree
from perf.gpu.last_words import last_words
from perf.gpu.memory import snapshot
from perf.gpu.servers import Failed, Server, engine_core, title


def started(what: str, server: Server, seconds: float) -> dict[str, Any]:
    """Wait for a server's first token; returns a row.

    Raises:
        Failed: it does not come.
    """
    took = server.until_generates(seconds)
    row = {"what": what, "server": server.name, "seconds": round(took, 2), "memory": snapshot()}
    return {**row, "phases": list(phases(server))} if server.kind == "ours" else row


def phases(server: Server) -> Iterator[tuple[str, float]]:
    """Yield the phases of our server's starts, and their seconds, as it has logged them."""
    for line in server.text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "phase" in entry and "seconds" in entry:
            yield entry["phase"], entry["seconds"]


def until_standby(server: Server, seconds: float) -> dict[str, Any]:
    """Wait until our server has a standby; returns a row with the GPU's memory before and after.

    Raises:
        Failed: it has none in time.
    """
    before, began = snapshot(), time.time()
    while "a standby is ready" not in server.text:
        if not server.is_running() or time.time() > began + seconds:
            why = last_words(server.text)
            raise Failed(f"{server.name} had no standby after {time.time() - began:.0f} s: {why}")
        time.sleep(0.2)
    processes = {pid: title(pid)[:80] for pid in tree(server.pid)}
    return {
        "what": "standby",
        "server": server.name,
        "before": before,
        "after": snapshot(),
        "tree": processes,
    }


def recovered(server: Server, seconds: float) -> dict[str, Any]:
    """Kill EngineCore, and wait in a request for the next engine's first token; returns a row.

    Raises:
        Failed: it does not come.
    """
    core = engine_core(server)
    if core is None:
        raise Failed(f"{server.name} has no EngineCore")
    before = snapshot()
    began = time.monotonic()
    os.kill(core, signal.SIGKILL)
    while engine_core(server) == core:
        time.sleep(0.01)
    # It waits in the gateway until there is an engine again.
    while (answer := server.generate(seconds))[0] != 200:
        if not server.is_running() or time.monotonic() > began + seconds:
            raise Failed(f"{server.name} after the loss of its engine: {answer}")
        time.sleep(0.1)
    took = time.monotonic() - began
    row = {"what": "recovery", "server": server.name, "seconds": round(took, 2)}
    return {**row, "phases": list(phases(server)), "before": before, "after": snapshot()}
