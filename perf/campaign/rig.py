"""The program that a campaign runs against, and what must hold of it afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from perf.campaign.campaign import CONCURRENCY, Campaign, Report, client_side, engine_side
from perf.campaign.engine_inputs import engine_input
from perf.campaign.inputs import BEARER, KEY, MAX_BODY_BYTES
from perf.campaign.stand_in import standing_in
from tests.support.fake.fake_engine import change_scenario, make_fake_engine_python, scenario_of
from tests.support.model import LONG_CONFIG, make_model
from tests.support.program import Program, engine_metric, running, until
from tests.support.raw_http import post_json

LIMIT_SECONDS = 2.0
"""Every time limit that the program puts on a client."""
SETTINGS = {
    "SERVED_MODEL_NAME": "fake",
    "API_KEYS": KEY,
    "EXTRA_ROUTES": "/v1/_echo /v1/_upload",
    "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    "HEADER_TIMEOUT_SECONDS": str(LIMIT_SECONDS),
    "BODY_IDLE_TIMEOUT_SECONDS": str(LIMIT_SECONDS),
    "SEND_TIMEOUT_SECONDS": str(LIMIT_SECONDS),
    # A comment in a stream that is none would be seen.
    "KEEP_ALIVE_SECONDS": "0.05",
}
_ENDLESS = post_json(
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5000, "stream": True},
    BEARER,
)
_DEFECTS = ("Traceback", "never retrieved", "was destroyed", "ERROR", "Exception")


@dataclass(frozen=True)
class Rig:
    """A program that is ready, and what it held when it was."""

    program: Program
    engine: Path
    """Its engine's socket."""
    engine_pid: int
    scenario: Path

    def rss(self) -> int:
        """Return the gateway's resident memory in bytes."""
        return int(psutil.Process(self.program.pid).memory_info().rss)

    def files(self) -> int:
        """Count the gateway's open files."""
        return psutil.Process(self.program.pid).num_fds()

    async def campaign(self, side: str, seed: int, indices: Sequence[int]) -> Report:
        """Play the inputs of these indices, on the client's side or on the engine's."""
        port = self.program.port
        if side == "client":
            return await Campaign(port, LIMIT_SECONDS, client_side(port, seed), side).run(indices)
        async with standing_in(self.engine, partial(engine_input, seed)):
            change_scenario(self.scenario, tokens_per_second=1)
            await _drop_idle_connections(port)
            change_scenario(self.scenario, tokens_per_second=0)
            return await Campaign(port, LIMIT_SECONDS, engine_side(port, seed), side).run(indices)

    def faults(self, files: int) -> list[str]:
        """Say what does not hold after a campaign; `files` were open before it."""
        # As many idle connections to the engine as there were requests at once may stay.
        until(lambda: self.files() <= files + CONCURRENCY + 4, "the close of all connections")
        until(lambda: engine_metric(self.engine, "vllm:num_requests_running") == 0, "an idle engine")
        faults = []
        if lost := self.program.engines_lost():
            faults.append(f"the engine was blamed {lost:g} times")
        if self.program.engine_pid() != self.engine_pid:
            faults.append("the engine is another one")
        ours = [line for line in self.program.log().splitlines() if " engine: " not in line]
        faults += [f"logged: {line}" for line in ours if any(word in line for word in _DEFECTS)]
        return faults


async def _drop_idle_connections(port: int) -> None:
    """Have the gateway close the connections that it keeps to the engine, whose socket is another's now.

    As many streams as there can be such connections take them, and those whose client leaves are closed.
    """
    clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2 * CONCURRENCY)]
    for _, writer in clients:
        writer.write(_ENDLESS)
    for reader, _ in clients:
        await reader.readuntil(b"data: ")
    for _, writer in clients:
        writer.transport.abort()


@contextmanager
def rig(folder: Path, **variables: str) -> Iterator[Rig]:
    """Run our program with a fake engine until it is ready."""
    model = make_model(folder / "model", LONG_CONFIG)
    python = make_fake_engine_python(folder / "engine", {"tokens": 100_000})
    environ = {"ENGINE_PYTHON": str(python), "MODEL_ID": str(model), **SETTINGS, **variables}
    with running(environ, folder=folder) as program:
        program.until_ready()
        pid = program.engine_pid()
        command = psutil.Process(pid).cmdline()
        yield Rig(program, Path(command[command.index("--uds") + 1]), pid, scenario_of(python))
