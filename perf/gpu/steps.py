"""The steps of a run, in the order of their worth: cold start, loss of the engine, warm starts, all servers, loads, failures."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from perf.bench import machine
from perf.bench.processes import free_port
from perf.gpu import failures, starts
from perf.gpu.legs import Generator, Load
from perf.gpu.memory import driver, snapshot
from perf.gpu.result_tables import PLAIN
from perf.gpu.results import Results
from perf.gpu.servers import RUST, Failed, Rig, Server, keep, kept
from vllm_engine.client.bench.bench_run import load_pool
from vllm_engine.plan.engine_installation import inspect_installation

TARGETS = ("vllm-2", "vllm-4", "rust", "ours-4", "ours-rust")
"""What is started beside plain vLLM and ours."""
_RUST = {RUST: "1"}
_OUR_RUST = {"ENGINE_FRONTEND": "rust", "API_SERVER_COUNT": "auto"}
_NO_AUTOTUNE = ("--no-enable-flashinfer-autotune",)
# Saves imports; how fast these start is not measured.
_FORK = {"VLLM_WORKER_MULTIPROC_METHOD": "fork"}


class Steps:
    """Runs steps; one that fails is recorded, and the others go on."""

    def __init__(self, rig: Rig, results: Results, arguments: argparse.Namespace) -> None:
        self._rig, self._results, self._arguments = rig, results, arguments
        self._state = rig.folder / "servers.json"
        self._servers = {server.name: server for server in kept(self._state)}
        # Plain vLLM has one API server; auto would be up to four.
        self._cold = {"API_SERVER_COUNT": "1", **arguments.cold}
        self._settings = {"API_SERVER_COUNT": "1", **arguments.settings}

    def run(self, step: str) -> None:
        """Run one step."""
        self._results.say(f"-- {step}")
        try:
            STEPS[step](self)
        except Exception as error:  # noqa: BLE001 - the machine is there once: the other steps still count
            told = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
            self._results.add({"what": "failed", "step": step, "error": told[:900]})
        self._results.save_logs()

    def close(self) -> None:
        """Stop the servers, or leave them for a later call."""
        if self._arguments.keep:
            keep(list(self._servers.values()), self._state)
            return
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(Server.stop, self._servers.values()))
        self._state.unlink(missing_ok=True)

    def write_facts(self) -> None:
        environ = self._rig.environment() | self._rig.settings(free_port()) | self._cold
        answers: dict[str, Any] = {
            "machine": machine.describe(),
            "versions": self._versions(),
            "memory": snapshot(),
        }
        for command in ("settings --json", "doctor --json", "serve --dry-run"):
            argv = [sys.executable, "-m", "vllm_engine.cli", *command.split()]
            folder = self._rig.folder  # no .env there
            done = subprocess.run(
                argv, env=environ, cwd=folder, capture_output=True, text=True, timeout=120, check=False
            )
            answers[command] = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        self._results.facts(answers)

    def _versions(self) -> dict[str, str | None]:
        python = self._rig.engine_python
        asked = [str(python), "-I", "-c", "import importlib.metadata as m; print(m.version('torch'))"]
        torch = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
        return {
            "vllm": inspect_installation(python).version,
            "torch": torch.stdout.strip() or None,
            "driver": driver(),
            "commit": machine.commit(),
        }

    def cold_start(self) -> None:
        self._stop("ours-cold")
        if self._rig.cache.exists():
            shutil.rmtree(self._rig.cache)
        server = self._rig.ours("ours-cold", {"STANDBY": "1", **self._cold})
        self._servers[server.name] = server
        self._results.add(starts.started("cold start", server, self._arguments.start_seconds))
        for path in ("/version", "/healthz", "/v1/models"):
            self._results.add({"what": path, "server": server.name, "text": server.get(path)})

    def recovery(self) -> None:
        server = self._servers.get("ours-cold")
        if server is None:
            raise Failed("ours-cold does not run: the step cold starts it")
        self._results.add(starts.until_standby(server, 90))
        self._results.add(starts.recovered(server, self._arguments.start_seconds))
        self._stop(server.name)

    def _stop(self, name: str) -> None:
        if name in self._servers:
            self._servers.pop(name).stop()

    def warm_starts(self) -> None:
        for name in (PLAIN, "ours"):
            self._stop(name)
            server = self._rig.plain(name) if name == PLAIN else self._rig.ours(name, self._settings)
            self._servers[name] = server
            self._results.add(starts.started("warm start", server, self._arguments.start_seconds))

    def start_servers(self) -> None:
        """Start all others at once: how long that takes is not quoted."""
        rig, ours = self._rig, self._settings
        recipes: dict[str, Callable[[], Server]] = {
            "vllm-2": lambda: rig.plain("vllm-2", "--api-server-count", "2", **_FORK),
            "vllm-4": lambda: rig.plain("vllm-4", "--api-server-count", "4", **_FORK),
            "rust": lambda: rig.plain("rust", **_FORK, **_RUST),
            "ours-4": lambda: rig.ours("ours-4", {**ours, "API_SERVER_COUNT": "4"}),
            "ours-rust": lambda: rig.ours("ours-rust", {**ours, **_OUR_RUST}),
        }
        for name, command in self._arguments.also:
            recipes[name] = partial(rig.other, name, command)
        wanted = self._arguments.targets or recipes
        lacking = [name for name in recipes if name in wanted and name not in self._servers]
        for name in lacking:
            self._servers[name] = recipes[name]()

        def wait(name: str) -> None:
            server, seconds = self._servers[name], self._arguments.start_seconds
            try:
                self._results.add(starts.started("start beside others", server, seconds))
            except Failed as error:
                self._servers.pop(name).stop()
                self._results.add({"what": "failed", "server": name, "error": str(error)})

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(wait, lacking))
        if self._rig.nginx:
            for name in (PLAIN, "rust"):
                if name in self._servers and f"nginx-{name}" not in self._servers:
                    nginx = rig.in_front(self._servers[name])
                    self._servers[nginx.name] = nginx

    def send_loads(self) -> None:
        """Alternate: each round asks every server once, and every other round in the opposite order."""
        processes: int = self._arguments.processes
        counts: Sequence[int] = self._arguments.streams
        if not self._targets():
            raise Failed("no server runs: the steps warm and servers start them")
        with load_pool(processes) as pool:
            generator = Generator(pool, processes, self._results.requests)
            for target in self._targets():  # what is asked first is slower
                self._leg(generator, target, Load(counts[0], counts[0], 16), -1)
            for number, count in enumerate(counts):
                targets = self._targets()
                for target in targets if number % 2 == 0 else reversed(targets):
                    if self._results.elapsed() < self._arguments.seconds:
                        self._leg(generator, target, _load(count), number)

    def _targets(self) -> list[Server]:
        return [server for server in self._servers.values() if server.is_running()]

    def _leg(self, generator: Generator, target: Server, load: Load, number: int) -> None:
        leg = generator.leg(target, load, number, self._servers.get(target.behind))
        if number >= 0 or leg.errors:
            self._results.add({"what": "leg", **asdict(leg)})

    def provoke_failures(self) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda server: server.stop(3), self._servers.values()))
        self._servers.clear()
        rig, out = self._rig, self._rig.folder / "failures"
        environ = rig.environment() | {"CACHE_DIR": str(rig.cache)}
        for row in failures.run_cases(rig.engine_python, Path(rig.model), environ, out, _NO_AUTOTUNE):
            self._results.add(row)


def _load(streams: int) -> Load:
    if streams == 1:
        return Load(1, 4, 96)
    return Load(streams, streams * (2 if streams <= 256 else 1), 128 if streams <= 256 else 64)


STEPS: Mapping[str, Callable[[Steps], None]] = {
    "facts": Steps.write_facts,
    "cold": Steps.cold_start,
    "recovery": Steps.recovery,
    "warm": Steps.warm_starts,
    "servers": Steps.start_servers,
    "legs": Steps.send_loads,
    "failures": Steps.provoke_failures,
}
