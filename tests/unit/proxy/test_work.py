"""A request's part in the engine's pulse: neither its client nor vLLM's API process alone make the engine busy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.proxy.test_relay import SlowClient
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.policy.routes import RouteTable, parse_extra_routes
from vllm_engine.gateway.proxy.request_work import Work
from vllm_engine.gateway.proxy.response_stream import ResponseStream
from vllm_engine.gateway.proxy.upstream import Upstream, UpstreamConnection, UpstreamError

CREATED = b'event: response.created\ndata: {"type":"response.created"}\n\n'
IN_PROGRESS = b'event: response.in_progress\ndata: {"type":"response.in_progress"}\n\n'
DELTA = b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n'
CHUNK = b'data: {"choices":[]}\n\n'


def relay_of(pulse: EngineActivity, *, is_core_work: bool = True) -> ResponseStream:
    """Return a relay to which a connection has just been attached."""
    client = SlowClient()
    record = RequestRecord("id", "POST", "/v1/completions", is_core_work=is_core_work)
    relay = ResponseStream(client, client.send, record, pulse)
    relay.attach(UpstreamConnection(Upstream(Path("nowhere"))))
    return relay


def test_a_stream_that_its_client_does_not_read_is_no_work() -> None:
    """While it is paused the engine cannot go on with it; read on, it is work again."""
    pulse = EngineActivity()
    relay = relay_of(pulse)
    seen = [pulse.running]
    for step in (relay.pause, relay.pause, relay.resume, relay.resume, relay.pause, relay.abort, relay.abort):
        step()
        seen.append(pulse.running)
    assert seen == [1, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("is_broken", [True, False])
def test_it_is_work_until_the_engine_is_done(is_broken: bool) -> None:
    """And not until its client has read everything, however long that takes."""
    pulse = EngineActivity()
    relay = relay_of(pulse)
    relay.on_head(200, [])
    assert pulse.running == 1
    if is_broken:
        relay.on_broken(UpstreamError("gone"))
    else:
        relay.on_end()
    assert pulse.running == 0
    relay.pause()
    relay.resume()
    assert pulse.running == 0


def test_more_than_may_be_held_is_no_work() -> None:
    """A whole answer of which the client takes nothing pauses the engine too."""
    pulse = EngineActivity()
    relay = relay_of(pulse)
    relay.on_head(200, [(b"content-length", b"1000000")])
    relay.on_data(b"x" * 300_000, is_last=False)
    assert pulse.running == 0


def test_a_second_attempt_is_work_whatever_the_first_came_to() -> None:
    """A pause belongs to one connection."""
    pulse = EngineActivity()
    relay = relay_of(pulse)
    relay.pause()
    relay.reset()
    relay.attach(UpstreamConnection(Upstream(Path("nowhere"))))
    assert pulse.running == 1


def test_a_route_without_the_core_is_neither_work_nor_a_sign_of_it() -> None:
    """However often somebody asks for the list of models."""
    pulse = EngineActivity()
    relay = relay_of(pulse, is_core_work=False)
    assert pulse.running == 0
    relay.on_head(200, [])
    relay.on_data(b"{}", is_last=True)
    assert pulse.progress == 0


@pytest.mark.parametrize(
    ("status", "is_event_stream", "pieces", "progress"),
    [
        (200, False, [b'{"choices"', b":[]}"], 2),
        (400, False, [b'{"error":{}}'], 0),
        (200, True, [CHUNK, CHUNK], 2),
        (200, True, [], 0),
        (200, True, [b": ping\n\n", b'data: {"error":{}}\n\n'], 0),
        (200, True, [CREATED, IN_PROGRESS], 0),
        (200, True, [CREATED[:30], CREATED[30:], IN_PROGRESS, DELTA, DELTA], 2),
        (200, True, [CREATED + IN_PROGRESS + DELTA, b'data: "}\n\n'], 2),
    ],
    ids=["whole", "refused", "stream", "head alone", "no work", "opening", "split", "at once"],
)
def test_what_shows_work(status: int, is_event_stream: bool, pieces: list[bytes], progress: int) -> None:
    """Only what vLLM cannot say without its core."""
    pulse = EngineActivity()
    work = Work(pulse)
    work.begin()
    work.answered(status, is_event_stream=is_event_stream)
    for piece in pieces:
        work.came(piece)
    assert pulse.progress == progress


def test_routes() -> None:
    """What generates or embeds is core work, also where EXTRA_ROUTES names it once more; what is unknown is not."""
    table = RouteTable(parse_extra_routes("/invocations, PUT /v1/completions"))
    asked = {
        path: route.is_core_work
        for path in ("/v1/completions", "/v1/embeddings", "/v1/models", "/tokenize", "/invocations")
        if (route := table.match(path.encode()))
    }
    assert asked == {
        "/v1/completions": True,
        "/v1/embeddings": True,
        "/v1/models": False,
        "/tokenize": False,
        "/invocations": False,
    }
