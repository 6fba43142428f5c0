"""Measures our gateway side by side with what else people put in front of vLLM; see docs/measured/benchmarks.md.

    python -m perf.bench.gateway                         all scenarios and targets, into docs/measured/benchmarks.md
    python -m perf.bench.gateway --only vllm-engine,nginx --scenarios paced --rounds 1 --no-document

Starts everything itself. The order of the targets turns round from one round to the next.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from perf.bench import machine, tables
from perf.bench.cpu_usage import tree
from perf.bench.processes import Running, Unavailable, pin
from perf.bench.scenarios import SCENARIOS, Leg, Scenario
from perf.bench.targets import DIRECT, GATEWAY, PEERS, ROOT, start_gateway, start_upstream
from perf.bench.versions import version
from vllm_engine.client.bench.bench_run import run_load
from vllm_engine.system.file_limit import raise_file_limit

_MIN_FILES = 20_000
_MAX_OTHERS = 0.2
"""Cores that other programs may use before a leg is repeated."""
_QUIET_SECONDS = 20.0


class Bench:
    """One run over scenarios and targets."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._folder: Path = options.cache / "results" / time.strftime("%Y%m%dT%H%M%S")
        self._folder.mkdir(parents=True)
        self.legs: list[Leg] = []
        self.unavailable: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self._programs: dict[str, Path] = {}
        for earlier in options.add:
            lines = (earlier / "legs.jsonl").read_text().splitlines()
            self.legs += [Leg(**json.loads(line)) for line in lines]
        self._cores = frozenset(os.sched_getaffinity(0))

    def install(self) -> None:
        """Install the peers that are wanted."""
        for peer in PEERS:
            if not self._is_wanted(peer.name):
                continue
            try:
                self._programs[peer.name] = peer.install(self._options.cache)
                self.versions[peer.name] = peer.version(self._programs[peer.name])
            except Unavailable as error:
                self._give_up(peer.name, error)

    def run(self, scenario: Scenario) -> None:
        """Start all targets afresh, warm them, and measure them in turn."""
        rounds = self._options.rounds or scenario.rounds
        with self._targets(scenario) as targets:
            for target in targets:
                warm = dataclasses.replace(
                    scenario.plan(target.url, 99), requests=16, concurrency=8, max_tokens=4
                )
                run_load(warm)
            for number in range(rounds):
                for target in targets if number % 2 == 0 else reversed(targets):
                    self._keep(scenario, target, self._measure(scenario, target, number))

    def _measure(self, scenario: Scenario, target: Running, number: int) -> Leg:
        """Measure while the machine is quiet; of disturbed attempts the least disturbed counts."""
        attempts: list[Leg] = []
        while len(attempts) < self._options.patience:
            machine.await_quiet(_MAX_OTHERS, self._options.patience * _QUIET_SECONDS)
            attempts.append(scenario.run(scenario, target, number, self._folder / "rows.jsonl"))
            if attempts[-1].others_share <= _MAX_OTHERS:
                break
        return min(attempts, key=lambda leg: leg.others_share)

    def report(self) -> str:
        """Return the whole result as Markdown."""
        names = {leg.scenario for leg in self.legs}
        parts = [
            f"Measured {machine.describe()}. {', '.join(f'{n} ({v})' for n, v in self.versions.items())}."
        ]
        parts += [tables.table(each, self.legs, self.unavailable) for each in SCENARIOS if each.name in names]
        text = "\n\n".join(parts)
        (self._folder / "report.md").write_text(text + "\n")
        return text

    @contextlib.contextmanager
    def _targets(self, scenario: Scenario) -> Iterator[list[Running]]:
        last = max(os.sched_getaffinity(0))
        with contextlib.ExitStack() as stack:
            upstream = start_upstream(scenario.pace, self._folder)
            stack.callback(upstream.stop)
            targets = [Running(DIRECT, upstream.url, None)] if self._is_wanted(DIRECT) else []
            for target in self._starting(scenario, upstream.url.removeprefix("http://")):
                stack.callback(target.stop)
                targets.append(target)
                assert target.process is not None
                if self._options.pin:
                    pin(tree(target.process.pid, target.without), {last})
                    pin(target.without, set(self._others(last)))
            if self._options.pin:
                assert upstream.process is not None
                pin([upstream.process.pid, os.getpid()], set(self._others(last)))
            try:
                yield targets
            finally:
                os.sched_setaffinity(0, self._cores)

    def _others(self, last: int) -> frozenset[int]:
        return self._cores - {last} or self._cores

    def _starting(self, scenario: Scenario, upstream: str) -> Iterator[Running]:
        starts: dict[str, Callable[[Path], Running]] = {}
        for name, source in self._options.gateway or [(GATEWAY, ROOT / "src")]:
            starts[name] = partial(start_gateway, name, source, scenario.pace)
        for peer in PEERS:
            if peer.name in self._programs:
                starts[peer.name] = partial(peer.start, upstream, self._programs[peer.name])
        for name, start in starts.items():
            if name in self.unavailable or not self._is_wanted(name):
                continue
            try:
                yield start(self._folder / name)
            except Unavailable as error:
                self._give_up(name, error)

    def _is_wanted(self, name: str) -> bool:
        only = self._options.only
        return not only or name in only.split(",")

    def _give_up(self, name: str, error: Unavailable) -> None:
        self.unavailable[name] = str(error)
        print(f"{name}: {error}", file=sys.stderr)

    def _keep(self, scenario: Scenario, target: Running, leg: Leg) -> None:
        if target.process is not None and target.process.poll() is not None:
            status = target.process.returncode
            self._give_up(target.name, Unavailable(f"ended with {status} in scenario {scenario.name}"))
            return
        self.legs.append(leg)
        with (self._folder / "legs.jsonl").open("a") as out:
            out.write(json.dumps(dataclasses.asdict(leg)) + "\n")
        print(
            f"{leg.scenario:7} {leg.round} {leg.target:18} {leg.events_per_second:8.0f} chunks/s  "
            f"{leg.cpu_us_per_event:7.1f} us/chunk  cpu {leg.cpu_share:4.2f} gen {leg.harness_share:4.2f}  "
            f"ttft {leg.ttft_p50:8.2f} {leg.ttft_p99:8.2f}  itl {leg.itl_p50:7.2f} {leg.itl_p99:8.2f} ms  "
            f"others {leg.others_share:4.2f}  "
            f"rss {leg.rss_before:6.1f} {leg.rss_peak:6.1f} {leg.rss_after:6.1f} MiB  "
            f"errors {leg.errors} {leg.first_error or ''}",
            flush=True,
        )


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", help="names of targets, separated by commas (direct, vllm-engine, nginx, ...)"
    )
    parser.add_argument(
        "--gateway",
        action="append",
        type=version,
        metavar="NAME=FOLDER",
        help="a source folder of vllm_engine to run under a name; several are measured side by side",
    )
    parser.add_argument("--scenarios", default=",".join(each.name for each in SCENARIOS))
    parser.add_argument("--rounds", type=int, help="instead of each scenario's own number")
    parser.add_argument(
        "--patience", type=int, default=3, help="how often to try a leg that other programs disturb"
    )
    parser.add_argument(
        "--add", action="append", type=Path, default=[], help="an earlier run's results, into the same tables"
    )
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/bench")
    parser.add_argument("--document", type=Path, default=ROOT / "docs/measured/benchmarks.md")
    parser.add_argument("--no-document", action="store_true", help="print the tables and write no document")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="let the kernel choose cores")
    options = parser.parse_args()
    options.cache = options.cache.absolute()
    # As an exception it unwinds, and ends what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    hard = raise_file_limit()
    if hard < _MIN_FILES:
        print(f"only {hard} open files are allowed: the idle scenario needs {_MIN_FILES}", file=sys.stderr)
    bench = Bench(options)
    bench.install()
    for scenario in SCENARIOS:
        if scenario.name in options.scenarios.split(","):
            bench.run(scenario)
    text = bench.report()
    print(text)
    if not options.no_document:
        tables.write_into(options.document, text, "bench")


if __name__ == "__main__":
    main()
