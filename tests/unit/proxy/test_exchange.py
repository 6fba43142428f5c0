"""One request's way to the engine: what may be sent again, and what is no evidence about the engine."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.support.stand_in_client import StandInClient
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.control_client import ControlClient
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.gateway.body.body_budget import BodyBudget
from vllm_engine.gateway.body.request_body import Bodies, Body
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.proxy import failover as recovery_module
from vllm_engine.gateway.proxy.attempt import Attempt, Engine, Request
from vllm_engine.gateway.proxy.failover import Recovery
from vllm_engine.gateway.proxy.response_stream import ResponseStream
from vllm_engine.gateway.proxy.upstream import Upstream, UpstreamConnection, UpstreamError

_BODIES = Bodies(max_bytes=1, idle_timeout_seconds=1, budget=BodyBudget(max_bytes=1, max_reading=1))

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops"
ENDED = UpstreamError("ended", "The server is shutting down", own_reason="draining")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Case:
    """An engine on a Unix socket that the test plays, and one client's request to it."""

    def __init__(self, path: Path, handle: Handler) -> None:
        self.asked: list[bytes] = []
        """First lines, in the order in which the engine read them."""
        self.began = asyncio.Event()
        self.client = StandInClient()
        self.record = RequestRecord("id", "POST", "/v1/completions")
        self.upstream = Upstream(path)
        self.relay = ResponseStream(self.client, self.client.send, self.record, EngineActivity())
        self._handle = handle
        self._serving: set[asyncio.Task[None] | None] = set()
        board = StatusBoard()
        board.move(EngineState.READY)
        recovery = Recovery(board, timeout_seconds=5, max_waiting=1)
        self._engine = Engine(self.upstream, board, recovery, EngineActivity(), ControlClient(path))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection; `/health` is always well."""
        self._serving.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked.append(head.partition(b"\r\n")[0])
                if head.startswith(b"GET /health"):
                    writer.write(HEALTHY)
                else:
                    self.began.set()
                    await self._handle(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def close(self) -> None:
        """End every connection."""
        self.upstream.close()
        self.relay.abort()
        await self._engine.control.__aexit__()
        await asyncio.gather(*filter(None, self._serving))

    async def keep_one(self) -> UpstreamConnection:
        """Have one idle connection in the pool."""
        connection = await self.upstream.connect()
        self.upstream.give_back(connection)
        return connection

    async def run(self, method: str = "POST") -> None:
        """Pass one request on."""
        head = method.encode() + b" /v1/completions HTTP/1.1\r\nhost: engine\r\n\r\n"
        exchange = Attempt(self._engine, self.relay, self.client.send, self.record, 0.0)
        async with asyncio.timeout(30):
            await exchange.run(Request(method, head, Body(_BODIES, None)))


@asynccontextmanager
async def engine_that(tmp_path: Path, handle: Handler) -> AsyncIterator[Case]:
    """Play an engine whose requests go to `handle`."""
    case = Case(tmp_path / "socket", handle)
    async with await asyncio.start_unix_server(case.serve, tmp_path / "socket"):
        yield case
        await case.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery_module, "NOTICE_SECONDS", 0.01)


async def closes_the_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the first connection once its request was read, and answer every other."""
    if closed:
        writer.write(ANSWER)
        return
    closed.append(True)
    writer.close()
    await writer.wait_closed()


closed: list[bool] = []


@pytest.mark.parametrize(("method", "status", "times"), [("POST", 502, 1), ("GET", 200, 2)])
async def test_read_and_closed(tmp_path: Path, method: str, status: int, times: int) -> None:
    """What the engine has read it may have begun: only what is safe is asked again, reused connection or not."""
    closed.clear()
    async with engine_that(tmp_path, closes_the_first) as case:
        await case.keep_one()
        await case.run(method)
        assert case.client.status == status
        assert [line for line in case.asked if b"completions" in line] == [
            method.encode() + b" /v1/completions HTTP/1.1"
        ] * times


@pytest.mark.parametrize("end", [socket.socket.close, lambda one: one.shutdown(socket.SHUT_WR)])
async def test_closed_unread(tmp_path: Path, end: Callable[[socket.socket], None]) -> None:
    """A request that lay unread in a connection as the engine closed it was not begun: it is sent again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)

    case = Case(tmp_path / "socket", answer)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        await case.keep_one()
        first = listener.accept()[0]
        running = asyncio.create_task(case.run())
        # As an engine that closes idle connections just as the request is written to it.
        await asyncio.to_thread(select.select, [first], [], [], 30)
        (tmp_path / "socket").unlink()
        async with await asyncio.start_unix_server(case.serve, tmp_path / "socket"):
            end(first)
            await running
            first.close()
            await case.close()
    assert (case.client.status, case.client.body) == (200, b"hello")
    assert len(case.asked) == 1


async def test_ended_by_us_is_not_sent_again(tmp_path: Path) -> None:
    """At the end of a drain: 503 at once, on a reused connection too, and the engine is asked nothing more."""

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with engine_that(tmp_path, be_silent) as case:
        await case.keep_one()
        running = asyncio.create_task(case.run())
        await case.began.wait()
        case.relay.fail(ENDED)
        await running
        assert case.client.status == 503
        assert b"shutting down" in case.client.body
        assert case.client.headers[b"retry-after"]
        assert case.asked == [b"POST /v1/completions HTTP/1.1"]
        assert (case.record.outcome, case.record.reason) == (Outcome.REJECTED, "draining")


async def test_ended_by_us_before_it_was_sent(tmp_path: Path) -> None:
    """A request that was still being read at the end of the drain does not reach the engine either."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)

    async with engine_that(tmp_path, answer) as case:
        case.relay.fail(ENDED)
        await case.run()
        assert (case.client.status, case.asked) == (503, [])


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS])
async def test_own_shortage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Who cannot ask learns nothing: 503 with Retry-After, and no question whether the engine lives."""

    async def fail(*_: object, **__: object) -> None:
        raise OSError(number, "no more")

    case = Case(tmp_path / "socket", closes_the_first)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", fail)
    await case.run()
    assert case.client.status == 503
    assert case.client.headers[b"retry-after"]
    assert b"short of files" in case.client.body
    assert (case.record.outcome, case.record.reason) == (Outcome.REJECTED, "shortage")
    await case.close()


async def test_an_error_is_no_obituary_for_want_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 500 of an engine of which nobody knows that it has died is passed on as it is."""

    async def fail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", no_more_files)
        writer.write(FAILED)

    async def no_more_files(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "no more")

    async with engine_that(tmp_path, fail) as case:
        await case.run()
        assert (case.client.status, case.client.body) == (500, b"oops")
