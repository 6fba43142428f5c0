"""One request's way to the engine and back: what is passed on, repeated, and never sent twice."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from pathlib import Path

import pytest

from tests.support.virtual.played_engine import END, EVENTS, OK, Case, Cut, chunk, engine_that_says, event
from tests.support.virtual.stand_in_client import StandInClient
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.control_client import Health
from vllm_engine.engine.engine_state import EngineState
from vllm_engine.gateway.body.body_budget import BodyBudget
from vllm_engine.gateway.body.body_fields import RequestFields
from vllm_engine.gateway.body.request_body import Bodies, Body
from vllm_engine.gateway.http.client_stream import CLIENT_STREAM
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.proxy.engine_proxy import ForwardedRequest, Proxy
from vllm_engine.gateway.proxy.response_stream import KEEP_ALIVE
from vllm_engine.gateway.proxy.upstream_connection import UpstreamError

POST = b"POST /v1/completions HTTP/1.1"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops"
SILENT = 1e6


def head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode("latin-1")


@in_virtual_time
async def test_what_is_not_a_whole_http_response_is_a_502(tmp_path: Path) -> None:
    for answer in (
        b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        head("Content-Length: 2", "Content-Length: 3") + b"okk", head("Content-Length: x") + b"ok",
        head("Content-Length: -1") + b"ok", head("X: a\x00b", "Content-Length: 2") + b"ok",
        head("X: a\rb", "Content-Length: 2") + b"ok", OK.replace(b"200", b"999"), OK.replace(b"200", b"20"),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: %s\r\n" % (b"x" * 10_000) * 30,
    ):  # fmt: skip
        async with engine_that_says(tmp_path, Cut(answer)) as case:
            client = await case.run()
            assert client.status == 502, answer[:80]
            assert json.loads(client.body)["error"]["type"] == "upstream_error"
            assert case.record.outcome is Outcome.UPSTREAM_BROKEN


@in_virtual_time
async def test_every_legal_response_arrives_whole_and_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"
    large = b"x" * 3_000_000
    for answer, body in (
        (OK, b"ok"), (Cut(head("X: 1") + b"until the close"), b"until the close"), (interim + OK, b"ok"),
        (Cut(b"HTTP/1.0 200 OK\r\n\r\nold"), b"old"), (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b""), (CHUNKED + b"2;a=b\r\nok\r\n0\r\n\r\n", b"ok"),
        (CHUNKED + b"2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n", b"ok"), (OK + OK.replace(b"ok", b"no"), b"ok"),
        (CHUNKED + chunk(b"x") * 10_000 + END, b"x" * 10_000), (OK + b"\r\n", b"ok"), (OK + b"garbage", b"ok"),
        (head("Content-Length: 3000000") + large, large), (CHUNKED + chunk(b"ok") + END + OK, b"ok"),
        (EVENTS + chunk(b"data: x\n\n" * 100_000) + END, b"data: x\n\n" * 100_000),
        (head("X: \xe9", "Content-Length: 2") + b"ok", b"ok"),
    ):  # fmt: skip
        async with engine_that_says(tmp_path, answer) as case:
            for _ in range(3):
                case.new_client()
                client = await case.run()
                assert (client.body, client.is_ended) == (body, True), answer[:80]
                assert b"x-trailer" not in client.headers
                await asyncio.sleep(1)
            assert case.played.asked == [POST] * 3


@in_virtual_time
async def test_headers_of_the_same_name_stay_two_and_those_of_one_hop_go(tmp_path: Path) -> None:
    answer = head("X-A: 1", "X-B: 0", "X-A: 2", "Connection: X-B", "Keep-Alive: 5", "Content-Length: 2")
    async with engine_that_says(tmp_path, answer + b"ok") as case:
        await case.run()
        names = [name for name, _ in case.stream.headers]
        assert names.count(b"x-a") == 2
        assert {b"x-b", b"keep-alive"}.isdisjoint(case.client.headers)
        assert case.client.headers[b"x-request-id"] == b"id"


@in_virtual_time
async def test_what_breaks_off_is_never_ended_as_if_it_were_whole(tmp_path: Path) -> None:
    """A stream ends in one error event."""
    for rest in (b"", chunk(b"data: 2"), chunk(b"data: 2\n"), b"zz\r\n"):
        async with engine_that_says(tmp_path, Cut(EVENTS + event("1") + rest)) as case:
            client = await case.run()
            *before, last = client.body.removesuffix(b"\n\n").split(b"\n\n")
            assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "upstream_error"
            assert before[0] == b"data: 1"
    for answer in (head("Content-Length: 100") + b"ok", CHUNKED + chunk(b"ok"), CHUNKED + b"5\r\nok"):
        async with engine_that_says(tmp_path, Cut(answer)) as case:
            with pytest.raises(UpstreamError):
                await case.run()
            assert (case.client.is_ended, case.record.outcome) == (False, Outcome.UPSTREAM_BROKEN)


@in_virtual_time
async def test_a_response_before_the_body_is_read(tmp_path: Path) -> None:
    """An engine that refuses a large body unread, and closes then, is understood."""
    refusal = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refusal)
        writer.close()

    case = Case(tmp_path / "socket", [], replay_seconds=0)
    async with await asyncio.start_unix_server(serve, case.path):
        client = await case.run(body=b"x" * 5_000_000)
        assert (client.status, client.body) == (413, b"big")


@in_virtual_time
async def test_what_the_engine_has_read_it_may_have_begun(tmp_path: Path) -> None:
    """Only what is safe is asked again, on a reused connection too."""
    for method, status, times in (("POST", 502, 1), ("GET", 200, 2)):
        async with engine_that_says(tmp_path, OK, Cut(b""), OK) as case:
            await case.run()
            case.new_client()
            assert (await case.run(method)).status == status
            assert len(case.played.asked) == 1 + times


@pytest.mark.parametrize("is_half_closed", [False, True])
@in_virtual_time
async def test_a_request_that_was_not_read_is_sent_again(tmp_path: Path, is_half_closed: bool) -> None:
    """As when an engine closes an idle connection just as a request is written to it."""
    case = Case(tmp_path / "socket", [OK], replay_seconds=0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(case.path))
        listener.listen()
        case.upstream.keep(await case.upstream.connect())
        first = listener.accept()[0]
        running = asyncio.create_task(case.run())
        await asyncio.sleep(1)
        case.path.unlink()
        async with await asyncio.start_unix_server(case.played.serve, case.path):
            if is_half_closed:
                first.shutdown(socket.SHUT_WR)
            else:
                first.close()
            client = await running
            first.close()
            case.upstream.close()
            await case.played.end()
    assert (client.status, client.body, case.played.asked) == (200, b"ok", [POST])


@in_virtual_time
async def test_a_client_that_disconnects_ends_the_engines_work(tmp_path: Path) -> None:
    async with engine_that_says(tmp_path, SILENT) as case:
        running = asyncio.create_task(case.run())
        await asyncio.sleep(10)
        running.cancel()
        await asyncio.wait_for(case.played.has_lost_client.wait(), 1)
        assert case.activity.running == 0


@in_virtual_time
async def test_a_shortage_of_our_own_proves_nothing_about_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "no more")

    async with engine_that_says(tmp_path, FAILED) as case:
        case.health_ = Health.NOT_ASKED
        client = await case.run()  # a 500 of an engine that nobody knows to be dead is passed on
        assert (client.status, client.body) == (500, b"oops")
        case.upstream.close()
        case.new_client()
        monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", fail)
        client = await case.run()
        assert (client.status, b"short of files" in client.body) == (503, True)
        assert (case.record.outcome, case.record.reason) == (Outcome.REJECTED, "shortage")
        assert len(case.played.asked) == 1


@in_virtual_time
async def test_a_request_outlasts_one_crash_of_the_engine_and_not_two(tmp_path: Path) -> None:
    """However vLLM says it, before anything of a response was passed on."""
    failed = event('{"error": {}}')
    crashes: tuple[bytes, ...] = (Cut(b""), FAILED, Cut(EVENTS), EVENTS + failed + END, Cut(EVENTS + failed))
    for crash in crashes:
        async with engine_that_says(tmp_path, crash, OK) as case:
            case.restart_after(1)
            client = await case.run()
            assert (client.status, client.body, case.record.replays) == (200, b"ok", 1)
            assert case.played.asked == [POST] * 2
        # The loss is known already, while a frontend still says that it is well: that of a dead core does.
        async with engine_that_says(tmp_path, 1.0, crash, OK) as case:
            case.restart_after(1.5, Health.GOOD)
            client = await case.run()
            assert (client.status, client.body, case.record.replays) == (200, b"ok", 1)
    async with engine_that_says(tmp_path, 1.0, Cut(b"")) as case:
        case.restart_after(2)
        asyncio.get_running_loop().call_later(5, case.restart_after, 2)
        case.played.answers[:] = [1.0, Cut(b""), 4.0, Cut(b""), OK]
        client = await case.run()
        assert (client.status, json.loads(client.body)["error"]["type"]) == (500, "engine_crash")
        assert case.record.reason == "suspect_request"
        assert case.played.asked == [POST] * 2


@in_virtual_time
async def test_an_error_while_the_gateway_drains_is_the_engines_own(tmp_path: Path) -> None:
    """Running requests go on then: the engine has not crashed, and is not waited for."""
    failed = event('{"error": {}}')
    for answer, status, body in (
        (FAILED, 500, b"oops"),
        (EVENTS + failed + END, 200, b'data: {"error": {}}\n\n'),
    ):
        async with engine_that_says(tmp_path, 1.0, answer) as case:
            asyncio.get_running_loop().call_later(0.5, case.board.move, EngineState.DRAINING)
            client = await case.run()
            assert (client.status, client.body) == (status, body)


@in_virtual_time
async def test_an_engine_that_does_not_come_back(tmp_path: Path) -> None:
    """Replay is off, the engine has failed for good, or it takes too long: the client is told."""
    for seconds, end in ((0, EngineState.BACKOFF), (60, EngineState.FAILED), (5, EngineState.BACKOFF)):
        async with engine_that_says(tmp_path, Cut(b""), replay_seconds=seconds) as case:
            case.health_ = Health.NOT_LISTENING
            asyncio.get_running_loop().call_later(1, case.board.move, end)
            assert ((await case.run()).status, case.record.replays) == (502, 0)


@in_virtual_time
async def test_a_stream_that_was_opened_early(tmp_path: Path) -> None:
    """Nobody gives up waiting for the first event; what the engine responds then comes as an event."""
    not_found = OK.replace(b"200 OK", b"404 Not Found")
    for answer, last in (
        (EVENTS + event("1") + END, b"data: 1\n\n"),
        (not_found.replace(b"2\r\n\r\nok", b'17\r\n\r\n{"detail":"none"}'), b'"none"'),
        (not_found.replace(b"2\r\n\r\nok", b'9\r\n\r\n{"error":'), b"upstream_error"),
        (Cut(b""), b"upstream_error"),
    ):
        async with engine_that_says(tmp_path, 3.5, answer) as case:
            client = await case.run(keep_alive=2.0)
            assert (client.status, client.chunks[0], client.is_ended) == (200, KEEP_ALIVE, True)
            assert last in client.chunks[-1]
    # While the engine restarts too.
    async with engine_that_says(tmp_path, Cut(b""), EVENTS + event("1") + END) as case:
        case.restart_after(30)
        client = await case.run(keep_alive=2.0)
        assert client.chunks == [KEEP_ALIVE, b"data: 1\n\n"]


async def ask(proxy: Proxy) -> tuple[StandInClient, RequestRecord]:
    client, record = StandInClient(), RequestRecord("id", "POST", "/v1/completions", is_core_work=True)
    scope = {"method": "POST", "headers": [], "extensions": {CLIENT_STREAM: client}}
    bodies = Bodies(max_bytes=1, idle_timeout_seconds=1, budget=BodyBudget(max_bytes=1, max_reading=1))
    attempt = proxy.begin(scope, client.send, record)
    try:
        request = ForwardedRequest(record, b"/v1/completions", Body(bodies, None), RequestFields())
        await proxy.pass_on(attempt, scope, request)
    finally:
        proxy.end(attempt, record)
    return client, record


def started(case: Case) -> Proxy:
    proxy = Proxy(case.engine, keep_alive_seconds=10)
    proxy.start()
    return proxy


@in_virtual_time
async def test_a_silent_stream_gets_a_comment_twice_in_its_time(tmp_path: Path) -> None:
    async with engine_that_says(tmp_path, EVENTS + event("1")) as case:
        proxy = started(case)
        asking = asyncio.create_task(ask(proxy))
        await asyncio.sleep(14)
        case.played.connections[0].write(event("2") + END)
        client, record = await asking
        assert client.chunks == [b"data: 1\n\n", KEEP_ALIVE, b"data: 2\n\n"]
        assert record.has_run
        proxy.stop()


@in_virtual_time
async def test_all_that_is_under_way_and_all_that_begins_is_ended(tmp_path: Path) -> None:
    """A request that the engine has, on a reused connection too, is not sent again."""
    async with engine_that_says(tmp_path, OK, SILENT, EVENTS + event("1")) as case:
        proxy = started(case)
        await ask(proxy)
        asking = list[asyncio.Task[tuple[StandInClient, RequestRecord]]]()
        for _ in range(2):
            asking.append(asyncio.create_task(ask(proxy)))
            await asyncio.sleep(1)
        proxy.end_all("The server is shutting down")
        waiting, (streaming, _) = await asyncio.gather(*asking)
        assert (streaming.chunks[0], b"shutting down" in streaming.chunks[-1]) == (b"data: 1\n\n", True)
        late = await ask(proxy)
        for client, record in (waiting, late):
            assert (client.status, client.headers[b"retry-after"]) == (503, b"5")
            assert b"shutting down" in client.body
            assert (record.outcome, record.reason) == (Outcome.REJECTED, "draining")
        assert (len(case.played.asked), late[1].has_run) == (3, False)
        proxy.stop()
