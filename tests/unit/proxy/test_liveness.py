"""The gateway's own question to the engine leaves other requests alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.unit.http.test_upstream import HEAD, SlowSink, engine
from vllm_engine.gateway.proxy.liveness import Liveness, ask_health
from vllm_engine.gateway.proxy.upstream import Upstream, UpstreamConnection


class _Busy(Upstream):
    """Begins a request on a connection in the very turn of the event loop in which it becomes idle."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begun: list[SlowSink] = []

    def give_back(self, connection: UpstreamConnection) -> None:
        if self.begun:
            super().give_back(connection)
            return
        self.begun.append(SlowSink(connection))
        connection.start(HEAD, b"", self.begun[0])


async def test_the_questions_connection_may_be_the_next_requests(tmp_path: Path) -> None:
    """A request that is given it before whoever asked hears the answer is not dropped with the question."""
    async with engine(tmp_path / "socket") as (_, connections):
        upstream = _Busy(tmp_path / "socket")
        assert await ask_health(upstream) is Liveness.GOOD
        [request] = upstream.begun
        async with asyncio.timeout(5):
            await request.ended.wait()
        assert (request.data, request.error, len(connections)) == (b"hello", None, 1)
        upstream.close()
