"""An engine on a Unix socket that a test plays, and one client's request to it; made for virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

from tests.support.virtual.stand_in_client import StandInClient
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.control_client import Health
from vllm_engine.engine.engine_control import EngineControl
from vllm_engine.engine.engine_state import EngineState, Frontend, StatusBoard
from vllm_engine.gateway.body.body_budget import BodyBudget
from vllm_engine.gateway.body.body_fields import read_fields
from vllm_engine.gateway.body.request_body import Bodies, Body
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.proxy.attempt import Attempt, Engine, EngineRequest
from vllm_engine.gateway.proxy.engine_frontends import Frontends
from vllm_engine.gateway.proxy.failover import Recovery
from vllm_engine.gateway.proxy.forwarded_headers import request_head
from vllm_engine.gateway.proxy.response_stream import ResponseStream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def event(data: str) -> bytes:
    return chunk(b"data: %s\n\n" % data.encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Cut(bytes):
    """A response after which the engine closes the connection."""


class Begun(bytes):
    """The first part of a response; the answers after it go on with it."""


class PlayedEngine:
    """Answers its requests with `answers` in turn, the last of them again and again; a float is a wait."""

    def __init__(self, answers: list[bytes | float]) -> None:
        self.answers = answers
        self.asked: list[bytes] = []
        """First lines, in the order in which they were read."""
        self.connections: list[asyncio.StreamWriter] = []
        self.has_lost_client = asyncio.Event()
        self._serving: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        self.connections.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(head.partition(b"\r\n")[0])
                _, _, length = head.partition(b"content-length: ")
                await reader.readexactly(int(length.partition(b"\r\n")[0] or b"0"))
                if await self._answer(reader, writer):
                    break
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, bytes):
                writer.write(answer)
                if isinstance(answer, Begun):
                    continue
                return isinstance(answer, Cut)
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait({gone}, timeout=answer)
            if gone.done():
                self.has_lost_client.set()
                return True
            gone.cancel()
            await asyncio.wait({gone})

    async def end(self) -> None:
        for connection in self.connections:
            connection.close()
        await asyncio.gather(*filter(None, self._serving))


class Case:
    """The engine, its state, and a client's request on its way there."""

    def __init__(self, path: Path, answers: list[bytes | float], *, replay_seconds: float) -> None:
        self.path = path
        self.played = PlayedEngine(answers)
        self.health_ = Health.GOOD
        self.client = StandInClient()
        self.record = RequestRecord("id", "POST", "/v1/completions", "/v1/completions", is_core_work=True)
        self.activity = EngineActivity()
        self.board = StatusBoard()
        self.board.move(EngineState.READY)
        self.recovery = Recovery(self.board, timeout_seconds=replay_seconds, max_waiting=1)
        control = cast(EngineControl, self)
        self.frontends = Frontends(path, path.with_name("rust"), self.board)
        self.upstream = self.frontends.upstream(Frontend.PYTHON)
        self.engine = Engine(self.frontends, self.board, self.recovery, self.activity, control)
        self.new_client()

    async def health(self) -> Health:
        """Stand in for the control client."""
        return self.health_

    def new_client(self) -> None:
        """Go on with another client."""
        self.client = StandInClient()
        self.stream = ResponseStream(self.client, self.client.send, self.record, self.activity)

    async def run(
        self, method: str = "POST", body: bytes | bytearray = b"", *, keep_alive: float = 0.0
    ) -> StandInClient:
        """Pass one request on; the client waits for events where `keep_alive` is given."""
        self.record.is_stream = bool(keep_alive)
        held = Body(
            Bodies(max_bytes=1, idle_timeout_seconds=1, budget=BodyBudget(max_bytes=1, max_reading=1)), None
        )
        held.data = body
        fields = read_fields(body, with_python_fields=True)
        head = request_head(method, b"/v1/completions", [], identity=b"id", body_bytes=len(body))
        del body
        attempt = Attempt(self.engine, self.stream, self.client.send, self.record, keep_alive)
        try:
            await attempt.run(EngineRequest(method, head, held, fields))
        finally:
            self.stream.abort()
        return self.client

    def restart_after(
        self,
        seconds: float,
        health: Health = Health.DEAD,
        *,
        frontends: tuple[Frontend, ...] = (Frontend.PYTHON,),
    ) -> None:
        """Have the engine lost when it is next asked for its health, and back with these after so long."""
        self.health_ = health
        loop = asyncio.get_running_loop()
        loop.call_later(min(1.0, seconds / 2), self.board.move, EngineState.BACKOFF)

        def back() -> None:
            self.board.restart()
            self.board.serving_with(frontends)
            self.board.move(EngineState.READY)
            self.health_ = Health.GOOD

        loop.call_later(seconds, back)


@asynccontextmanager
async def engine_that_says(
    folder: Path, *answers: bytes | float, replay_seconds: float = 60.0
) -> AsyncIterator[Case]:
    """Play an engine; a float among its answers is how long it takes for the next."""
    case = Case(folder / "socket", list(answers), replay_seconds=replay_seconds)
    async with await asyncio.start_unix_server(case.played.serve, case.path):
        yield case
        case.upstream.close()
        await case.played.end()
