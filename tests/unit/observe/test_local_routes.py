"""What the gateway answers itself: at once, in the event loop, and as it is described."""

from __future__ import annotations

import json
from typing import Any

import anyio.to_thread
import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from vllm_engine.engine.activity import OwnQuestions
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.gateway.answers import send_rejected
from vllm_engine.gateway.local.local_routes import LOCAL_PATHS, local_routes
from vllm_engine.gateway.local.metric_history import Recorder
from vllm_engine.gateway.local.page import Page
from vllm_engine.gateway.local.probes import Build
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.rejection import Rejected

BUILD = Build("sha", "now", "0.32.0", "3.11", "org/model", None, "python", "a CPU")


async def metrics() -> bytes:
    """Return metrics."""
    return b"a 1\n"


def make(board: StatusBoard, *, needs_key: bool = False) -> httpx2.AsyncClient:
    """Return a client of our own routes."""
    recorder = Recorder(board, metrics, lambda: 0, OwnQuestions())
    page = Page(recorder, needs_key=needs_key, keep_seconds=1.0)
    local = local_routes(board, BUILD, metrics, page, needs_key=needs_key)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord.of(scope)
        try:
            await local.answer(scope, receive, send, record)
        except Rejected as rejected:
            await send_rejected(send, record, rejected)

    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://x")


@pytest.fixture
def board() -> StatusBoard:
    """The status of an engine that starts."""
    return StatusBoard()


async def test_no_thread_answers(monkeypatch: pytest.MonkeyPatch, board: StatusBoard) -> None:
    """None of these takes a thread of a pool: forty would be all there are, and each a switch of tasks."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a thread")

    monkeypatch.setattr(anyio.to_thread, "run_sync", refuse)
    async with make(board) as client:
        for path in (*LOCAL_PATHS, "/ui/state", "/ui/history", "/openapi.json", "/", "/nowhere"):
            assert (await client.get(path)).status_code in (200, 204, 404, 503), path


async def test_head_is_get_without_a_body(board: StatusBoard) -> None:
    """Wherever GET is answered, HEAD is (RFC 9110, section 9.1); what else there might be is refused with both."""
    async with make(board) as client:
        for path in (*LOCAL_PATHS, "/ui/state", "/ui/history", "/openapi.json", "/"):
            get, head = await client.get(path), await client.head(path)
            # The body itself is left out by the server.
            assert (head.status_code, head.headers.keys()) == (get.status_code, get.headers.keys()), path
            for method in ("POST", "OPTIONS", "DELETE"):
                refused = await client.request(method, path)
                assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD"), path


async def test_a_path_is_told_back_as_one_short_word(board: StatusBoard) -> None:
    """As in the log: a stranger's 60 kB are not sent back, nor what a terminal would obey."""
    async with make(board) as client:
        answer = await client.get("/%1b[2J" + "x" * 60_000)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("No such route: GET /%1B%5B2Jxx")
    assert len(answer.content) < 500


async def test_retry_after() -> None:
    """When to come back is said as long as coming back may help."""
    for states, tells in (((), True), ((EngineState.BACKOFF,), True), ((EngineState.FAILED,), False)):
        board = StatusBoard()
        for state in states:
            board.move(state)
        async with make(board) as client:
            answer = await client.get("/healthz")
        assert (answer.status_code, "retry-after" in answer.headers) == (503, tells)


@pytest.mark.parametrize("needs_key", [True, False])
async def test_description(board: StatusBoard, needs_key: bool) -> None:
    """It tells of readiness' 503, and of keys where there are any: how to give one, and what happens without."""
    async with make(board, needs_key=needs_key) as client:
        schema = (await client.get("/openapi.json")).json()
    assert schema["paths"]["/healthz"]["get"]["responses"].keys() == {"200", "503"}
    assert ("securitySchemes" in schema["components"]) is needs_key
    asking = {path for path, one in schema["paths"].items() if "401" in one["get"]["responses"]}
    assert asking == ({"/version", "/metrics", "/ui/history"} if needs_key else set())
    assert all("security" in schema["paths"][path]["get"] for path in asking)
    named = json.dumps(schema).split('"$ref": "#/components/schemas/')[1:]
    assert {one.partition('"')[0] for one in named} <= schema["components"]["schemas"].keys()


async def test_history_is_shared(board: StatusBoard) -> None:
    """Columns of fifteen minutes are not made anew for each who asks."""
    async with make(board) as client:
        first = await client.get("/ui/history")
        board.move(EngineState.READY)
        board.move(EngineState.BACKOFF)
        board.restart()
        assert (await client.get("/ui/history")).content == first.content
