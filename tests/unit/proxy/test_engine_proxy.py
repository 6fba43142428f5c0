"""The proxy as a whole: comments while the engine is silent, and the end of all responses."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.virtual.played_engine import END, EVENTS, OK, Case, engine_that_says, event
from tests.support.virtual.stand_in_client import StandInClient
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.gateway.body.body_budget import BodyBudget
from vllm_engine.gateway.body.request_body import Bodies, Body
from vllm_engine.gateway.http.client_stream import CLIENT_STREAM
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.proxy.engine_proxy import ForwardedRequest, Proxy
from vllm_engine.gateway.proxy.response_stream import KEEP_ALIVE


async def ask(proxy: Proxy) -> tuple[StandInClient, RequestRecord]:
    client, record = StandInClient(), RequestRecord("id", "POST", "/v1/completions", is_core_work=True)
    scope = {"method": "POST", "headers": [], "extensions": {CLIENT_STREAM: client}}
    bodies = Bodies(max_bytes=1, idle_timeout_seconds=1, budget=BodyBudget(max_bytes=1, max_reading=1))
    await proxy.pass_on(scope, client.send, ForwardedRequest(record, b"/v1/completions", Body(bodies, None)))
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
    async with engine_that_says(tmp_path, EVENTS + event("1")) as case:
        proxy = started(case)
        asking = asyncio.create_task(ask(proxy))
        await asyncio.sleep(1)
        proxy.end_all("The server is shutting down")
        client, _ = await asking
        assert (client.chunks[0], b"shutting down" in client.chunks[-1]) == (b"data: 1\n\n", True)
        case.played.answers[:] = [OK]
        client, record = await ask(proxy)
        assert (client.status, record.reason, record.has_run) == (503, "draining", False)
        proxy.stop()
