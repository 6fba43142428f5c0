"""What the fake engine's process runs: its start, then its service."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.support.fake.both.fake_rust import start_rust
from tests.support.fake.fake_scenarios import SCENARIO_VARIABLE, LiveScenario, Scenario, record_start
from tests.support.fake.fake_serving import serve
from tests.support.fake.fake_startup import EngineCoreProcess, Replay, end, sleep_for_ever, write_chatter
from tests.support.fake.nodes.fake_nodes import Nodes, work


def scenario_path() -> Path:
    """Return the scenario's file."""
    return Path(os.environ.get(SCENARIO_VARIABLE) or Path(sys.prefix) / "scenario.json")


def main(rust_socket: Path | None = None) -> None:
    """Start and serve, with both frontends if there is a socket for the other."""
    live = LiveScenario(scenario_path())
    start = _Start(_parse(sys.argv[1:]), live.now())
    starts = record_start(live.path)
    # As the file by which vLLM's processes find each other (`vllm/utils/network_utils.py`), and which it leaves.
    tempfile.mkstemp(prefix="vllm_dist_")
    nodes = Nodes(start.options)
    if start.options.headless:
        if live.now().never_joins:
            sleep_for_ever()
        work(start.options, nodes)
        end(Scenario(), 0)
    start.run()
    nodes.meet()
    scenario = live.now()
    if scenario.die_at_start is not None and (scenario.dies_times is None or starts <= scenario.dies_times):
        end(scenario, scenario.die_at_start)
    if scenario.never_ready or start.core is None:
        sleep_for_ever()
    write_chatter(scenario)
    rust = start_rust(start.options, live, rust_socket, start.core.pid) if rust_socket else None
    asyncio.run(serve(start.options, live, start.listener, start.core, rust, nodes))
    end(Scenario(), 0)


class _Start:
    """The steps of a start, each at its line of the log, and what SIGTERM does meanwhile."""

    def __init__(self, options: argparse.Namespace, scenario: Scenario) -> None:
        self.options = options
        self.listener = socket.socket(socket.AF_UNIX)
        self.core: EngineCoreProcess | None = None
        self._scenario = scenario
        steps = {b"non-default args": self._bind, b"(EngineCore": self._start_core}
        if scenario.fetch_weights:
            steps[b"checkpoint shards"] = self._fetch
        self._replay = Replay(scenario, steps)

    def run(self) -> None:
        if self._scenario.ignore_sigterm:
            signal.signal(signal.SIGTERM, _ignore)
        self._replay.run()

    def _bind(self) -> None:
        self.listener.bind(self.options.uds)
        if not self._scenario.ignore_sigterm:
            signal.signal(signal.SIGTERM, _interrupt)

    def _start_core(self) -> None:
        self.core = EngineCoreProcess(with_orphan=self._scenario.fork_orphan)
        self._replay.name_process(b"EngineCore", self.core.pid)
        # While it waits for its engine core, vLLM loses a SIGTERM: it goes on, becomes ready and serves.
        signal.signal(signal.SIGTERM, _ignore)

    def _fetch(self) -> None:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - only a real engine has it

        # As vLLM's `download_weights_from_hf` does; the tokenizer it fetches elsewhere.
        snapshot_download(
            self.options.model_tag, revision=self.options.revision, allow_patterns="*.safetensors"
        )


def _ignore(number: int, frame: FrameType | None) -> None:
    # Not SIG_IGN, which the children would inherit.
    pass


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt("terminated")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    serve_parser = parser.add_subparsers(required=True).add_parser("serve", allow_abbrev=False)
    serve_parser.add_argument("model_tag")
    serve_parser.add_argument("--revision")
    serve_parser.add_argument("--uds")
    serve_parser.add_argument("--headless", action="store_true")
    serve_parser.add_argument("--nnodes", type=int, default=1)
    serve_parser.add_argument("--node-rank", type=int, default=0)
    serve_parser.add_argument("--master-addr")
    serve_parser.add_argument("--master-port", type=int)
    serve_parser.add_argument("--served-model-name", nargs="+")
    serve_parser.add_argument("--max-model-len", default="8192")
    serve_parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    serve_parser.add_argument("--enable-request-id-headers", action="store_true")
    serve_parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    # Whatever else the supervisor passes is vLLM's business; the flags' own tests see to it.
    return parser.parse_known_args(argv)[0]
