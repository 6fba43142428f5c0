"""A head and its workers with played engines, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tests.support.program import free_pair
from tests.support.virtual.engine_rig import COMMAND, Life, Rig
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.engine.nodes.head_group import HeadGroup
from vllm_engine.engine.nodes.worker_supervisor import WorkerSupervisor
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.engine.startup.preparation import Launch
from vllm_engine.errors import Diagnosis, ModelError

NO_MEMORY = Diagnosis("out-of-memory", "there is no memory", "use a smaller model")
OURS = {"vLLM": "0.32.0", "MODEL_ID": "m"}


def settings(rank: int, port: int, **others: str) -> Settings:
    given = {"NODES": "3", "NODE_RANK": str(rank), "HEAD_ADDRESS": "127.0.0.1", "HEAD_PORT": str(port)}
    return load_settings(Environment({**given, **others}, {}))


class Node:
    """A worker of played engines."""

    def __init__(self, rank: int, port: int, *lives: Life, ours: Mapping[str, str] = OURS) -> None:
        self.rig, self.board = Rig(*lives), StatusBoard()
        self.diagnosis = NO_MEMORY
        self.prepared = 0
        self.prepare_error: ModelError | None = None
        self.supervisor = WorkerSupervisor(
            self.board, self._prepare, self._explain,
            settings=settings(rank, port), ours=ours, spawn=self.rig.spawn,
        )  # fmt: skip
        self.running = asyncio.create_task(self.supervisor.run())

    async def _prepare(self, changes: Mapping[str, str]) -> Launch:
        self.prepared += 1
        if self.prepare_error is not None:
            raise self.prepare_error
        return Launch(COMMAND, None, "float16")

    def _explain(self, ended: EngineExit) -> Diagnosis:
        return self.diagnosis

    @property
    def state(self) -> EngineState:
        return self.board.current.state

    @property
    def runs(self) -> list[bool]:
        """Of each vLLM that was started, whether it runs."""
        return [process.is_running for process in self.rig.processes]

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class Head:
    """The head's group, which is told by the test what its engine does."""

    def __init__(self, port: int, **others: str) -> None:
        self.port = port
        self.told: list[str | None] = []
        self.group = HeadGroup(settings(0, port, **others), OURS, self.told.append)

    def newest(self) -> str | None:
        return self.told[-1]

    async def start(self) -> None:
        await self.group.gather()
        self.group.begin()
        await asyncio.sleep(1)


@contextlib.asynccontextmanager
async def three_nodes(*lives: Life) -> AsyncIterator[tuple[Head, Node, Node]]:
    """Yield a head and two workers that have been started."""
    port = free_pair()
    head = Head(port)
    async with head.group:
        one, two = Node(1, port, *lives), Node(2, port)
        try:
            await head.start()
            yield head, one, two
        finally:
            await one.close()
            await two.close()


async def stranger(port: int, *messages: Mapping[str, Any] | bytes) -> tuple[asyncio.StreamReader, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port + 1)
    for message in messages:
        writer.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")
    return reader, writer
