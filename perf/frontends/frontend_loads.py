"""All servers side by side with a mock engine core, and loads for each in turn; a row for each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from perf.bench import machine
from perf.bench.cpu_usage import usage
from perf.frontends.frontend_rows import Rows
from perf.frontends.frontend_servers import MIXED, NAMES, FrontendRig, until_ready
from perf.frontends.process_roles import memory_mib, role
from perf.gpu.legs import Generator, Leg, Load
from perf.gpu.servers import Failed, Server
from perf.mock_core.server_environment import set_pace

MAX_TOKENS = 128
_WARM_UP_TOKENS = 16
_MAX_OTHERS = 0.1
_QUIET_SECONDS = 20.0

_NOTHING: dict[str, object] = {}
PYTHON_ONLY: Sequence[dict[str, object]] = (*[_NOTHING] * 9, {"length_penalty": 2.0})
"""Every tenth request has a field that the Rust frontend refuses; without beam search it changes no answer."""
MIXES: dict[str, Sequence[dict[str, object]]] = {"chat": (_NOTHING,), "mixed": PYTHON_ONLY}


class Loads:
    """Starts servers, sends loads, keeps rows."""

    def __init__(self, rig: FrontendRig, mock: Path, rows: Rows, options: argparse.Namespace) -> None:
        self._rig, self._mock, self._rows, self._options = rig, mock, rows, options
        self._generator = Generator(None, 1, rows.requests, role)
        self._servers: list[Server] = []
        self._speeds: dict[tuple[str, int], float] = {}

    def run(self) -> None:
        """Start every server, and ask each once a round; every other round in the opposite order."""
        started: list[Server] = []
        # Twice as many: to stop them must not wait until all have started.
        with ThreadPoolExecutor(2 * len(NAMES)) as pool:
            try:
                started += map(self._rig.start, self._options.servers)
                self._servers = [server for server in pool.map(self._ready, started) if server is not None]
                for number in range(self._options.rounds):
                    for server in self._servers if number % 2 == 0 else reversed(self._servers):
                        for streams in self._options.streams:
                            self._legs(server, streams, number)
            finally:
                list(pool.map(Server.stop, started))

    def _ready(self, server: Server) -> Server | None:
        try:
            until_ready(server, self._options.start_seconds)
        except Failed as error:
            self._rows.add({"what": "failed", "server": server.name, "error": str(error)})
            return None
        return server

    def _legs(self, server: Server, streams: int, number: int) -> None:
        set_pace(self._mock, self._options.pace)
        # What is asked first is slower.
        self._generator.leg(server, Load(streams, streams, _WARM_UP_TOKENS), -1, None)
        key = server.name, streams
        if key not in self._speeds:
            guess = self._generator.leg(server, Load(streams, streams, MAX_TOKENS), -1, None)
            self._speeds[key] = guess.tokens_per_second
        count = requests_for(self._speeds[key], streams, self._options.seconds)
        for mix in self._options.mixes:
            if mix == "chat" or server.name in MIXED:
                self._leg(server, mix, Load(streams, count, MAX_TOKENS, MIXES[mix]), number)

    def _leg(self, server: Server, mix: str, load: Load, number: int) -> None:
        machine.await_quiet(_MAX_OTHERS, _QUIET_SECONDS)
        others, idle = machine.others_seconds(), self._idle_seconds(server)
        leg = self._generator.leg(server, load, number, None)
        self._rows.add(
            {
                "what": "leg",
                "mix": mix,
                "pace": self._options.pace,
                **_rounded(leg),
                "events_per_second": round(leg.events / leg.seconds, 1),
                "others_cores": round((machine.others_seconds() - others) / leg.seconds, 3),
                "idle_cores": round((self._idle_seconds(server) - idle) / leg.seconds, 3),
                "memory_mib": memory_mib(server),
            }
        )

    def _idle_seconds(self, asked: Server) -> float:
        """Return the processor time of the servers that are not asked."""
        return sum(usage(each.pid).cpu_seconds for each in self._servers if each is not asked)


def requests_for(speed: float, streams: int, seconds: float) -> int:
    """Return how many requests take so long at a speed in tokens/s, but at least two for each stream. Pure."""
    wanted = speed * seconds / MAX_TOKENS
    return streams * max(2, round(wanted / streams))


def _rounded(leg: Leg) -> dict[str, Any]:
    cpu = {name: round(used, 3) for name, used in leg.cpu_us.items()}
    fields = asdict(replace(leg, cpu_us=cpu))
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in fields.items()}
