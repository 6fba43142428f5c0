"""The steps of docs/request.md in their order: which one answers a request, and with what; the local routes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.support.virtual.gateway_client import gateway
from tests.support.virtual.played_engine import OK, PlayedEngine
from tests.support.virtual.virtual_time import settle
from vllm_engine.engine.engine_state import EngineState, StatusBoard
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.gateway.local.local_routes import LOCAL_PATHS

POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
)
PATHS = (*LOCAL_PATHS, "/ui/state", "/ui/history", "/ui/status", "/openapi.json", "/docs", "/")
CHAT, KEY, PAGE = "/v1/chat/completions", "a-key-of-ours", "https://app.example.com"


async def test_who_answers(tmp_path: Path) -> None:
    """Key before route before body before readiness; each with the request's id and the headers of its status."""
    board = StatusBoard()
    bearer = {"Authorization": f"Bearer {KEY}"}
    limits: dict[str, Any] = {"API_KEYS": KEY, "MAX_BODY_BYTES": "10", "MAX_IN_FLIGHT": "1"}
    async with gateway(tmp_path, board=board, **limits) as (client, made):
        for method, path, headers, body, status, header in (
            ("POST", CHAT, {}, b"", 401, ("www-authenticate", "Bearer")), ("GET", "/nothing", bearer, b"", 404, None),
            ("GET", "/nothing", {}, b"", 401, ("www-authenticate", "Bearer")), ("GET", "/%2e/livez", bearer, b"", 404, None),
            ("GET", CHAT, bearer, b"", 405, ("allow", "POST")), ("POST", "/livez", {}, b"", 405, ("allow", "GET, HEAD")),
            ("POST", CHAT, bearer, b"{}", 503, ("retry-after", "5")), ("GET", "/livez", {}, b"", 200, None),
        ):  # fmt: skip
            headers = headers | {"x-request-id": "mine"}
            answer = await client.request(method, path, headers=headers, content=body)
            assert (answer.status_code, answer.headers["x-request-id"]) == (status, "mine"), (method, path)
            assert header is None or answer.headers[header[0]] == header[1], (method, path)
        board.move(EngineState.READY)
        for body, status, message in ((b"x" * 11, 413, "MAX_BODY_BYTES=10"), (b"{}", 503, "engine")):
            answer = await client.post(CHAT, headers=bearer, content=body)
            assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True)
        assert answer.headers.get("connection") is None and made.in_flight == 0
        made.begin_drain()
        answer = await client.post(CHAT, headers=bearer, content=b"{}")
        assert (answer.status_code, answer.headers["connection"]) == (503, "close")
        assert answer.json()["error"]["message"] == "The server is shutting down"
        text = (await client.get("/metrics", headers=bearer)).text
    counts = {
        "unauthorized": 2, "unknown_route": 2, "method": 2, "not_ready": 1, "body_size": 1, "draining": 1
    }  # fmt: skip
    for reason, count in counts.items():
        assert f'gateway_rejections_total{{reason="{reason}"}} {count}.0' in text
    assert "gateway_engine_up 0.0" in text


async def test_what_routers_ask_of_every_replica(tmp_path: Path) -> None:
    """Without scale-out endpoints it is refused as by vLLM, at once, whatever the engine does, and counts for no limit."""
    limits: dict[str, Any] = {"API_KEYS": f"me:{KEY}", "KEY_REQUESTS_PER_MINUTE": "1", "LOG_LEVEL": "info"}
    async with gateway(tmp_path, **limits) as (client, made):
        for path, kind in (
            (f"{CHAT}/render", "PermissionDeniedError"),
            ("/v1/messages/render", "permission_error"),
        ):
            assert (await client.post(path, content=b"{}")).status_code == 401
            for _ in range(3):
                answer = await client.post(path, headers={"Authorization": f"Bearer {KEY}"}, content=b"{}")
                error = answer.json()["error"]
                assert (answer.status_code, error["type"]) == (403, kind)
                assert "ENABLE_SCALE_OUT=1" in error["message"]
        made.has_scale_out = True
        answer = await client.post(path, headers={"Authorization": f"Bearer {KEY}"}, content=b"{}")
        assert answer.status_code == 503  # for the engine, which is not there
        text = (await client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})).text
    assert 'gateway_rejections_total{reason="unauthorized"} 2.0' in text
    assert f'gateway_requests_total{{outcome="complete",route="{CHAT}/render",status="403"}} 3.0' in text


async def test_a_defect_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs one request, is answered and seen, and shows nothing of itself."""
    async with gateway(tmp_path, API_KEYS=KEY) as (client, made):
        monkeypatch.setattr(made, "keyring", None)
        answer = await client.post(CHAT, content=b"{}")
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal_error")
        assert 'outcome="failed",route="unmatched",status="500"' in (await client.get("/metrics")).text


async def test_cors(tmp_path: Path) -> None:
    """Off unless asked for, and then for the pages that were named and the routes that exist."""
    for origins, origin, path, wanted, status, methods in (
        (PAGE, PAGE, CHAT, "authorization,x-a", 204, "POST"), (PAGE, PAGE, "/metrics", "x-a", 204, "GET, HEAD"),
        (PAGE, PAGE, "/v1/responses/resp_1", 'x"<script>', 204, "GET"), ("*", "null", CHAT, "x-a", 204, "POST"),
        (PAGE, PAGE + ".evil.example", CHAT, "x-a", 401, None), (PAGE, "null", CHAT, "x-a", 401, None),
        (PAGE, PAGE, "/v1/load_lora_adapter", "x-a", 401, None), ("", PAGE, CHAT, "x-a", 401, None),
    ):  # fmt: skip
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": wanted}
        async with gateway(tmp_path, API_KEYS=KEY, CORS_ORIGINS=origins) as (client, _):
            answer = await client.options(path, headers=asked | {"Origin": origin})
            probe = await client.get("/livez", headers={"Origin": origin})
        assert (answer.status_code, answer.headers.get("access-control-allow-methods")) == (status, methods)
        repeated = answer.headers.get("access-control-allow-headers")
        assert repeated == (wanted if status == 204 and '"' not in wanted else None)
        allowed = {"*": "*", PAGE: PAGE if origin == PAGE else None, "": None}[origins]
        assert probe.headers.get("access-control-allow-origin") == allowed
        # Caches keep pages apart, unless all get the same.
        assert probe.headers.get("vary") == ("origin" if origins == PAGE else None)


async def test_pages_and_metrics_for_whom(tmp_path: Path) -> None:
    """ENABLE_UI, METRICS_PUBLIC and HEALTH_PORT decide what is there, and what needs a key."""
    for settings, statuses in (
        ({}, {"/": 200, "/ui/state": 200, "/ui/history": 401, "/metrics": 200, "/livez": 200}),
        ({"HEALTH_PORT": "8001"}, {"/metrics": 401, "/v1/metrics": 401}),
        ({"HEALTH_PORT": "8001", "METRICS_PUBLIC": "1"}, {"/metrics": 200, "/v1/metrics": 200, "/version": 401}),
        ({"ENABLE_UI": "0"}, {"/": 401, "/ui/state": 401, "/ui/app.js": 401}),
        ({"is_health": True}, {"/": 404, "/ui/state": 404, "/metrics": 200, "/version": 200, CHAT: 404}),
    ):  # fmt: skip
        async with gateway(tmp_path, API_KEYS=KEY, **settings) as (client, _):
            for path, status in statuses.items():
                assert (await client.get(path)).status_code == status, (settings, path)


async def test_the_pages_files(tmp_path: Path) -> None:
    """They have their types and one spelling each, and are not sent again to who has them."""
    async with gateway(tmp_path) as (client, _):
        for path, kind in (
            ("/", "text/html"), ("/ui", "text/html"), ("/ui/styles/base.css", "text/css"), ("/ui/icon.svg", "image/svg+xml"),
            ("/ui/app.js", "text/javascript"), ("/ui/lib/dom.js", "text/javascript"),
        ):  # fmt: skip
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
            policy = answer.headers["content-security-policy"]
            assert "unsafe" not in policy and not [part for part in POLICY if part not in policy.split("; ")]
            others = ("x-content-type-options", "referrer-policy")
            assert [answer.headers[name] for name in others] == ["nosniff", "no-referrer"]
            same = await client.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (same.status_code, same.content) == (304, b"")
        for path in ("/ui", "/docs"):
            moved = await client.get(f"{path}/")
            assert (moved.status_code, moved.headers["location"]) == (308, f"..{path}")
        for path in ("/ui/index.html", "/ui/nothing.js", "/ui/app.js/", "/ui/lib", "/ui/%2e%2e/page.py"):
            assert (await client.get(path)).status_code == 404, path


async def test_local_routes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None takes a thread of a pool: forty would be all there are. Wherever GET is answered, HEAD is (RFC 9110, 9.1)."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a thread")

    monkeypatch.setattr(anyio.to_thread, "run_sync", refuse)
    async with gateway(tmp_path) as (client, _):
        assert (await client.get("/nowhere")).status_code == 404
        for path in PATHS:
            get, head = await client.get(path), await client.head(path)
            assert get.status_code in (200, 204, 503), path
            # The body itself is left out by the server.
            assert (head.status_code, head.headers.keys()) == (get.status_code, get.headers.keys()), path
            for method in ("POST", "OPTIONS", "DELETE"):
                refused = await client.request(method, path)
                assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD"), path
        answer = await client.get("/%1b[2J" + "x" * 60_000)
    # As in the log: a stranger's 60 kB are not sent back, nor what a terminal would obey.
    assert (answer.status_code, len(answer.content) < 500) == (404, True)
    assert answer.json()["error"]["message"].startswith("No such route: GET /%1B%5B2Jxx")


async def test_retry_after(tmp_path: Path) -> None:
    """When to come back is said as long as coming back may help."""
    for states, tells in (((), True), ((EngineState.BACKOFF,), True), ((EngineState.FAILED,), False)):
        board = StatusBoard()
        for state in states:
            board.move(state)
        async with gateway(tmp_path, board=board) as (client, _):
            answer = await client.get("/healthz")
        assert (answer.status_code, "retry-after" in answer.headers) == (503, tells)


async def test_description(tmp_path: Path) -> None:
    """It has readiness' 503, and keys where there are any: how to give one, and what happens without."""
    for keys in ({"API_KEYS": KEY, "HEALTH_PORT": "8001"}, dict[str, Any]()):
        async with gateway(tmp_path, **keys) as (client, made):
            schema = (await client.get("/openapi.json", headers={"x-api-key": KEY})).json()
        assert "/v1/chat/completions" in schema["paths"]
        own = {path: item for path, item in schema["paths"].items() if path not in made.routes.templates}
        paths = {path: item["get"] for path, item in own.items()}
        assert paths["/healthz"]["responses"].keys() == {"200", "503"}
        assert ("securitySchemes" in schema["components"]) is bool(keys)
        asking = {path for path, get in paths.items() if "401" in get["responses"]}
        assert asking == ({"/version", "/metrics", "/ui/history", "/ui/status"} if keys else set())
        assert all("security" in paths[path] for path in asking)
        named = json.dumps(schema).split('"$ref": "#/components/schemas/')[1:]
        assert {one.partition('"')[0] for one in named} <= schema["components"]["schemas"].keys()


async def test_history_is_shared(tmp_path: Path) -> None:
    """Columns of fifteen minutes are not made again for each who asks."""
    board = StatusBoard()
    async with gateway(tmp_path, board=board, METRICS_CACHE_SECONDS="60") as (client, _):
        first = await client.get("/ui/history")
        board.move(EngineState.BACKOFF)
        board.restart()
        assert (await client.get("/ui/history")).content == first.content


async def test_a_key_without_tokens_may_list_the_models(tmp_path: Path) -> None:
    """What can use no tokens needs none; the engine, which is not there, is asked."""
    board = StatusBoard()
    board.move(EngineState.READY)
    async with gateway(tmp_path, board=board, KEY_TOKENS_PER_MINUTE=60) as (client, made):
        slot = await made.admission.enter(None)
        slot.record_tokens(60, 60)
        slot.leave()
        refused = await client.post(CHAT, json={"messages": []})
        assert (refused.status_code, "KEY_TOKENS_PER_MINUTE" in refused.text) == (429, True)
        assert (await client.get("/v1/models")).status_code in (502, 503)


async def test_what_wakes_an_idle_engine(tmp_path: Path) -> None:
    """A request for the engine that the gateway has not refused itself; it waits for the start, whoever asks meanwhile."""
    board = StatusBoard()
    board.move(EngineState.READY)
    board.rest()
    good, other = {"x-api-key": KEY}, {"x-api-key": "another-key"}
    limits: dict[str, Any] = {
        "API_KEYS": f"a:{KEY} b:another-key",
        "MAX_BODY_BYTES": 10,
        "KEY_REQUESTS_PER_MINUTE": 1,
    }
    async with gateway(tmp_path, board=board, **limits) as (client, made):
        woken = asyncio.create_task(made.demand.until_wanted())
        (await made.admission.enter("b")).leave()
        for method, path, headers, body, status in (
            ("POST", CHAT, {}, b"{}", 401), ("POST", CHAT, {"x-api-key": "a-stranger"}, b"{}", 401),
            ("GET", CHAT, good, b"", 405), ("POST", "/v1/nothing", good, b"{}", 404),
            ("POST", CHAT, good, b"x" * 11, 413), ("POST", CHAT, other, b"{}", 429),
            *(("GET", path, good, b"", None) for path in (*PATHS, "/ui/state", "/ui/status", "/ui/history")),
        ):  # fmt: skip
            answer = await client.request(method, path, headers=headers, content=body)
            assert status is None or answer.status_code == status, (path, answer.text)
        await asyncio.sleep(0)
        assert (woken.done(), board.current.state) == (False, EngineState.IDLE)
        asking = [asyncio.create_task(client.post(CHAT, headers=good, content=b"{}"))]
        await woken
        assert made.recovery.waiting == 1
        board.restart()
        for move in (EngineState.BACKOFF, EngineState.FAILED):
            board.move(move)
        [answer] = await asyncio.gather(*asking)
        assert (answer.status_code, "failed" in answer.json()["error"]["message"]) == (503, True)
        assert not made.demand.is_wanted


async def test_a_lame_duck_without_an_engine(tmp_path: Path) -> None:
    """What comes while balancers are yet to notice goes to the engine if it served; else it is told to go elsewhere."""
    for state, is_asked in (
        (EngineState.READY, True),
        (EngineState.IDLE, False),
        (EngineState.BACKOFF, False),
    ):
        board = StatusBoard()
        board.move(EngineState.READY)
        if not is_asked:
            board.move(state)
        async with gateway(tmp_path, board=board) as (client, made):
            made.begin_lame_duck()
            board.move(EngineState.DRAINING)
            answer = await client.post(CHAT, content=b"{}")
        message = answer.json()["error"]["message"]
        assert (answer.status_code, message == "The engine is draining") == (503, not is_asked)


async def test_what_a_stop_would_lose_keeps_the_engine(tmp_path: Path) -> None:
    """An adapter that was loaded at run time, until the next start; one that was refused does not."""
    for status, is_kept in ((b"404 Not Found", False), (b"200 OK", True)):
        played = PlayedEngine([b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nok" % status])
        board = StatusBoard()
        board.move(EngineState.READY)
        async with (
            gateway(tmp_path, board=board, EXTRA_ROUTES="POST /v1/load_lora_adapter") as (client, made),
            await asyncio.start_unix_server(played.serve, EngineFolders(tmp_path, tmp_path).socket),
        ):
            answer = await client.post("/v1/load_lora_adapter", json={})
            assert (answer.status_code, bool(made.demand.kept_for)) == (int(status[:3]), is_kept)
            made.demand.begin()
            assert made.demand.kept_for is None
            made.proxy.stop()
            await played.end()


async def test_those_who_waited_for_the_engine_are_served_in_their_order(tmp_path: Path) -> None:
    """Streams and others; before anybody who comes once it is ready."""
    played, board = PlayedEngine([OK]), StatusBoard()
    board.move(EngineState.READY)
    board.rest()
    paths = ("/v1/completions", CHAT, "/tokenize", "/v1/messages", "/v1/responses")
    async with (
        gateway(tmp_path, board=board, MAX_IN_FLIGHT=1) as (client, made),
        await asyncio.start_unix_server(played.serve, EngineFolders(tmp_path, tmp_path).socket),
    ):
        asking = []
        for number, path in enumerate(paths, 1):
            body = {"stream": True} if number % 2 else {}
            asking.append(asyncio.create_task(client.post(path, json=body)))
            await settle()
            assert made.recovery.waiting == number
        board.restart()
        board.move(EngineState.READY)
        asking.append(asyncio.create_task(client.post("/detokenize", json={})))
        answers = await asyncio.gather(*asking)
        assert [answer.status_code for answer in answers] == [200] * 6
        assert [line.split()[1].decode() for line in played.asked] == [*paths, "/detokenize"]
        made.proxy.stop()
        await played.end()
