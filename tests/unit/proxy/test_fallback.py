"""A request that the Rust frontend refuses: the Python frontend's answer is the only one that the client sees."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.virtual.played_engine import (
    END,
    EVENTS,
    OK,
    Begun,
    Case,
    Cut,
    PlayedEngine,
    engine_that_says,
    event,
)
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.control_client import Health
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.gateway.body.frontend_fields import CHAT, COMPLETIONS
from vllm_engine.gateway.observe.request_record import Outcome
from vllm_engine.gateway.proxy.response_stream import KEEP_ALIVE
from vllm_engine.gateway.proxy.upstream_connection import UpstreamError

BODY = b'{"prompt": "hi", "temperature": 3}'
SILENT = 1e6
BOTH = (Frontend.PYTHON, Frontend.RUST)


def answer(status: int, body: bytes = b'{"error": {"message": "rust"}}', server: bytes = b"rust") -> bytes:
    head = b"HTTP/1.1 %d X\r\nserver: %b\r\ncontent-length: %d\r\n\r\n"
    return head % (status, server, len(body)) + body


@asynccontextmanager
async def both(
    folder: Path, rust: list[bytes | float], *python: bytes | float
) -> AsyncIterator[tuple[Case, PlayedEngine]]:
    """Play both frontends of one engine."""
    async with engine_that_says(folder, *(python or (OK,))) as case:
        case.board.serving_with(BOTH)
        played = PlayedEngine(rust)
        async with await asyncio.start_unix_server(played.serve, folder / "rust"):
            yield case, played
            case.frontends.close()
            await played.end()


@in_virtual_time
async def test_the_python_frontends_answer_counts(tmp_path: Path) -> None:
    """Of any refusal before the first byte, and of a good answer too; the request is counted once."""
    usage = b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
    refusals = {
        answer(400): "refused_400", answer(404, b""): "refused_404", answer(422): "refused_422",
        answer(501): "refused_501", answer(500): "refused_500",
        EVENTS + event('{"error": {"code": 400}}') + END: "refused_in_stream",
    }  # fmt: skip
    for refusal, reason in refusals.items():
        for mine, status in ((usage, 200), (b"{}", 400)):
            async with both(tmp_path, [refusal], answer(status, mine, b"uvicorn")) as (case, rust):
                client = await case.run(body=BODY)
                assert (client.status, client.headers[b"x-request-id"]) == (status, b"id")
                assert b"rust" not in client.body + client.headers[b"server"]
                record = case.record
                assert (record.frontend, record.python_reason, record.replays) == (Frontend.PYTHON, reason, 0)
                assert (record.outcome, case.stream.usage.size) == (Outcome.COMPLETE, len(client.body))
                assert case.stream.has_run is (status == 200)
                assert case.stream.usage.tokens() == ((3, 4) if status == 200 else (None, None))
                assert (len(rust.asked), len(case.played.asked), case.activity.running) == (1, 1, 0)


@in_virtual_time
async def test_what_is_no_refusal_is_passed_on(tmp_path: Path) -> None:
    events = EVENTS + event("1") + event('{"error": {}}') + END
    for said, status in ((OK, 200), (answer(503), 503), (answer(502), 502), (events, 200)):
        async with both(tmp_path, [said]) as (case, _):
            assert (await case.run(body=BODY)).status == status
            assert (case.record.frontend, case.record.python_reason) == (Frontend.RUST, None)
            assert case.played.asked == []


def chat(content: str) -> bytes:
    return b'{"choices":[{"message":{"role":"assistant","content":%b}}]}' % content.encode()


NO_TEXT = answer(200, chat("null"))
LONG = answer(200, chat(f'"{"w" * 1_000_000}"'))


@in_virtual_time
async def test_a_whole_chat_without_text_is_asked_again(tmp_path: Path) -> None:
    """Clients count on a text. It comes late or at once; nothing is learnt from it, and no more is held than may be."""
    late: list[bytes | float] = [Begun(NO_TEXT[:-30]), 1.0, NO_TEXT[-30:]]
    cases: tuple[tuple[str, list[bytes | float], str | None], ...] = (
        (CHAT, [NO_TEXT], "empty_answer"),
        (CHAT, late, "empty_answer"),
        (COMPLETIONS, [NO_TEXT], None),
        (CHAT, [answer(200, chat(r'"\"content\":null"'))], None),
        (CHAT, [LONG], None),
        (CHAT, [answer(503, chat("null"))], None),
        (CHAT, [EVENTS + event(chat("null").decode()) + END], None),
    )
    for route, said, reason in cases:
        async with both(tmp_path, [*said, *said], answer(200, chat('""'))) as (case, rust):
            case.record.route = route
            for number in (1, 2):
                case.new_client()
                client = await case.run(body=BODY)
                assert (client.body == chat('""'), case.record.python_reason) == (reason is not None, reason)
                assert (len(rust.asked), case.activity.running) == (number, 0)


@in_virtual_time
async def test_connections_of_each_frontend_are_used_again(tmp_path: Path) -> None:
    async with both(tmp_path, [answer(400)]) as (case, rust):
        for number in range(3):
            case.new_client()
            await case.run(body=b'{"prompt": "hi", "x%d": 1}' % number)
        assert (len(rust.connections), len(rust.asked)) == (1, 3)
        assert (len(case.played.connections), len(case.played.asked)) == (1, 3)


@in_virtual_time
async def test_a_refusal_is_paid_once_by_requests_of_one_shape(tmp_path: Path) -> None:
    async with both(tmp_path, [answer(400)]) as (case, rust):
        for reason in ("refused_400", "learned", "learned"):
            case.new_client()
            assert (await case.run(body=BODY)).body == b"ok"
            assert case.record.python_reason == reason
        assert len(rust.asked) == 1
        case.new_client()
        await case.run(body=b'{"prompt": "hi", "n": 2}')
        assert case.record.python_reason == "n"


@in_virtual_time
async def test_a_stream_that_was_opened_before_it_was_refused(tmp_path: Path) -> None:
    """The status line has been sent; comments go on while the Python frontend is waited for."""
    good = EVENTS + event("1") + END
    for refusal in (answer(400), answer(501), EVENTS + event('{"error": {}}') + END):
        async with both(tmp_path, [3.0, refusal], 6.0, good) as (case, _):
            ticker = asyncio.create_task(ticking(case))
            client = await case.run(body=BODY, keep_alive=2.0)
            ticker.cancel()
            assert client.status == 200
            assert client.chunks[0] == KEEP_ALIVE
            assert client.chunks[-1] == b"data: 1\n\n"
            assert len(client.chunks) >= 4
            assert set(client.chunks[:-1]) == {KEEP_ALIVE}
    async with both(tmp_path, [3.0, answer(400)], answer(400, b'{"error": {"message": "py"}}')) as (case, _):
        client = await case.run(body=BODY, keep_alive=2.0)
        assert json.loads(client.chunks[-1].removeprefix(b"data: "))["error"]["message"] == "py"


async def ticking(case: Case) -> None:
    while True:
        await asyncio.sleep(1)
        case.stream.tick()


@in_virtual_time
async def test_a_client_that_disconnects_or_a_shutdown_ends_either_attempt(tmp_path: Path) -> None:
    for rust_says, python_says in (([SILENT], OK), ([answer(400)], SILENT)):
        for is_shutdown in (False, True):
            async with both(tmp_path, list(rust_says), python_says) as (case, rust):
                asked = asyncio.create_task(case.run(body=BODY))
                await asyncio.sleep(10)
                waiting = case.played if case.played.asked else rust
                if is_shutdown:
                    case.stream.fail(UpstreamError("x", "shut down", own_reason="draining"))
                    assert ((await asked).status, case.record.reason) == (503, "draining")
                else:
                    asked.cancel()
                await asyncio.wait_for(waiting.has_lost_client.wait(), 1)
                assert (case.activity.running, len(case.played.asked)) == (0, waiting is case.played)


class Data(bytearray):
    """Bytes that one can see the end of."""


@in_virtual_time
async def test_a_large_body_is_held_until_an_answer_counts_and_no_longer(tmp_path: Path) -> None:
    """The second frontend gets all of it; while the answer is streamed it takes no memory."""
    async with both(tmp_path, [answer(400)], EVENTS + event("1"), SILENT) as (case, rust):
        data = Data(b'{"prompt": "' + b"w" * 3_000_000 + b'"}')
        held = weakref.ref(data)
        asked = asyncio.create_task(case.run(body=data))
        del data
        await asyncio.sleep(10)
        assert (case.client.body, len(rust.asked)) == (b"data: 1\n\n", 1)
        assert held() is None
        asked.cancel()


@in_virtual_time
async def test_an_engine_lost_on_the_way_is_a_replay(tmp_path: Path) -> None:
    """Whichever frontend shows it; after the restart the frontends that run then are chosen from."""
    for rust_says, python_says, frontend in (
        ([Cut(b""), OK], [OK], Frontend.RUST),
        ([answer(500), OK], [OK], Frontend.RUST),
        ([answer(400), answer(400)], [Cut(b""), OK], Frontend.PYTHON),
    ):
        async with both(tmp_path, list(rust_says), *python_says) as (case, _):
            case.restart_after(2, Health.NOT_LISTENING, frontends=BOTH)
            client = await case.run(body=BODY)
            assert (client.body, case.record.replays, case.record.frontend) == (b"ok", 1, frontend)
    async with both(tmp_path, [Cut(b"")]) as (case, _):
        case.restart_after(2, Health.NOT_LISTENING)
        assert (await case.run(body=BODY)).body == b"ok"
        assert (case.record.frontend, case.record.python_reason) == (Frontend.PYTHON, None)


@in_virtual_time
async def test_a_rust_frontend_that_cannot_be_reached_refuses_nothing(tmp_path: Path) -> None:
    async with engine_that_says(tmp_path, OK) as case:
        case.board.serving_with(BOTH)
        assert (await case.run(body=BODY)).status == 503
        assert case.played.asked == []
