"""`/openapi.json`: vLLM's own document as far as its routes are served, ours beside it, and what is said without it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.fake.fake_fixed import DESCRIPTION
from vllm_engine.engine.control_client import ControlError
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.gateway.local.openapi_document import (
    BUSY,
    NOT_READY,
    NOTE,
    UNDESCRIBED,
    UNREADABLE,
    OpenApiDocument,
)
from vllm_engine.gateway.local.openapi_merge import merged, served, undescribed
from vllm_engine.gateway.policy.routes import RouteTable, parse_extra_routes

OURS: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "vllm-engine", "version": "1"},
    "paths": {
        "/livez": {"get": {"responses": {"200": {"description": "Alive."}}}},
        "/version": {
            "get": {"responses": {"200": {"description": "Ours.", "$ref": "#/components/schemas/Health"}}}
        },
    },
    "components": {"schemas": {"Health": {"type": "object", "title": "ours"}}},
}


def of(document: dict[str, Any]) -> dict[str, set[str]]:
    """Return the methods of each path."""
    return {path: item.keys() - {"parameters"} for path, item in document["paths"].items()}


def names(document: dict[str, Any]) -> set[str]:
    """Return the names of all schemas; each reference must lead somewhere."""
    schemas: dict[str, Any] = document["components"]["schemas"]
    text = json.dumps({**document, "components": {**document["components"], "securitySchemes": {}}})
    for reference in text.split('"#/components/')[1:]:
        section, _, name = reference.partition('"')[0].partition("/")
        assert name in document["components"][section], reference[:80]
    return set(schemas)


def test_only_what_is_served() -> None:
    """A route or method that the allow-list refuses is not in it, nor a schema that only such a route uses."""
    document = served(DESCRIPTION, RouteTable())
    assert of(document) == {
        "/v1/models": {"get"},
        "/v1/chat/completions": {"post"},
        "/v1/responses/{response_id}": {"get"},
        "/tokenize": {"post"},
    }
    assert names(document) == DESCRIPTION["components"]["schemas"].keys() - {"ScaleRequest"}
    assert document["paths"]["/tokenize"] == DESCRIPTION["paths"]["/tokenize"]


def test_extra_routes() -> None:
    """What EXTRA_ROUTES adds is in it: as vLLM describes it, by name alone where it does not, in place of ours."""
    routes = RouteTable(parse_extra_routes("POST /scale_elastic_ep, GET /version, POST /v1/hidden"))
    engine = served(DESCRIPTION, routes)
    assert "ScaleRequest" in names(engine)
    assert of(engine)["/v1/hidden"] == {"post"}
    both = merged(OURS, engine, {"/livez"}, needs_key=True)
    assert both["paths"]["/version"]["get"]["summary"] == "Show Version"
    assert all("security" in both["paths"][path]["get"] for path in ("/version", "/v1/models"))
    names(both)


def test_ours_beside_it() -> None:
    """Two schemas of one name stay apart; refusals are told; a path prefix in front is kept; nothing given is changed."""
    before = json.dumps([OURS, DESCRIPTION])
    for needs_key in (True, False):
        both = merged(OURS, served(DESCRIPTION, RouteTable()), {"/livez"}, needs_key=needs_key)
        schemas = both["components"]["schemas"]
        assert {"Health", "GatewayHealth", "GatewayError"} <= names(both)
        assert (schemas["Health"]["type"], schemas["GatewayHealth"]["title"]) == ("string", "ours")
        assert both["paths"]["/version"]["get"]["responses"]["200"]["$ref"].endswith("/GatewayHealth")
        assert both["servers"] == [{"url": "."}]
        chat = both["paths"]["/v1/chat/completions"]["post"]
        assert {"400", "429", "503"} <= chat["responses"].keys()
        assert chat["tags"] == ["model"]
        asks = {path for path, item in both["paths"].items() for one in item.values() if "security" in one}
        assert asks == (both["paths"].keys() - {"/livez"} if needs_key else set())
        assert ("securitySchemes" in both["components"]) is needs_key
        assert ("401" in chat["responses"]) is needs_key
    assert json.dumps([OURS, DESCRIPTION]) == before


def test_without_theirs() -> None:
    """By name alone, each route has what a valid document needs."""
    document = merged(OURS, undescribed(RouteTable()), set(), needs_key=True)
    assert of(document)["/v1/chat/completions"] == {"post"}
    assert [one["name"] for one in document["paths"]["/v1/responses/{id}"]["parameters"]] == ["id"]
    names(document)


class Engine:
    """An engine that is asked for its document."""

    def __init__(self) -> None:
        self.board, self.asked, self.is_idle = StatusBoard(), 0, True
        self.answer: bytes | ControlError | None = json.dumps(DESCRIPTION).encode()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.document = OpenApiDocument(
            lambda: OURS,
            self.ask,
            self.board,
            RouteTable(),
            {"/livez"},
            needs_key=False,
            is_idle=lambda: self.is_idle,
        )

    async def ask(self) -> bytes | None:
        self.asked += 1
        await self.may_answer.wait()
        if isinstance(self.answer, ControlError):
            raise self.answer
        return self.answer

    async def note(self) -> str | None:
        document = json.loads(await self.document.get())
        assert "/v1/chat/completions" in document["paths"] and "/livez" in document["paths"]
        note: str | None = document["info"].get(NOTE)
        assert ("/v1/embeddings" in document["paths"]) is (note is not None)
        return note


async def test_asked_once_a_start() -> None:
    """Not before the engine is ready, nor while it works; then once for all who want it, and again after a restart."""
    engine = Engine()
    assert await engine.note() == NOT_READY
    engine.board.move(EngineState.READY)
    engine.is_idle = False
    assert await engine.note() == BUSY
    engine.is_idle = True
    engine.may_answer.clear()
    first, *others = [asyncio.create_task(engine.note()) for _ in range(50)]
    await asyncio.sleep(0)
    first.cancel()
    engine.may_answer.set()
    assert await asyncio.gather(*others) == [None] * 49
    engine.is_idle = False
    assert await engine.note() is None, "it is known by now"
    assert engine.asked == 1
    engine.board.move(EngineState.BACKOFF)
    engine.board.restart()
    assert await engine.note() == NOT_READY
    engine.board.move(EngineState.READY)
    engine.is_idle = True
    assert [await engine.note(), engine.asked] == [None, 2]


@pytest.mark.parametrize("bad", [b"<html>", b"[1]", b'{"paths": 3}', b"[" * 100_000, ControlError("gone")])
async def test_an_engine_that_answers_otherwise(bad: bytes | ControlError) -> None:
    """It costs nothing but the description, and is asked again; one that has none is not."""
    engine = Engine()
    engine.board.move(EngineState.READY)
    good, engine.answer = engine.answer, bad
    assert await engine.note() == UNREADABLE
    engine.answer = good
    assert await engine.note() is None
    bare = Engine()
    bare.board.move(EngineState.READY)
    bare.answer = None
    assert [await bare.note(), await bare.note(), bare.asked] == [UNDESCRIBED, UNDESCRIBED, 1]
