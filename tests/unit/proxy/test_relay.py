"""One answer on its way: nothing of it is lost or waited for in vain, whenever its pieces come."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

import pytest

from tests.support.stand_in_client import StandInClient
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.proxy.response_stream import KEEP_ALIVE, ResponseStream
from vllm_engine.gateway.proxy.upstream import UpstreamError


class SlowClient(StandInClient):
    """Reads nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.reads.clear()
        self.has_read = self.reads
        self.started = self.has_body


@pytest.fixture
async def client() -> SlowClient:
    """One that has read nothing yet."""
    return SlowClient()


@pytest.fixture
def record() -> RequestRecord:
    """Of a chat request."""
    return RequestRecord("id", "POST", "/v1/chat/completions")


@pytest.fixture
def relay(client: SlowClient, record: RequestRecord) -> ResponseStream:
    """Between that client and an engine that the tests play."""
    return ResponseStream(client, client.send, record, EngineActivity())


async def begin(relay: ResponseStream, client: SlowClient, first: bytes) -> asyncio.Task[None]:
    """Have the first piece of a whole answer on its way to the client, who does not read it yet."""
    headers = [(b"content-length", b"6")]
    relay.on_head(200, headers)
    relay.on_data(first, is_last=False)
    task = asyncio.create_task(relay.pass_on(headers))
    await asyncio.wait_for(client.started.wait(), 30)
    return task


async def test_a_whole_answer_ends_while_its_client_is_slow(
    relay: ResponseStream, client: SlowClient
) -> None:
    """What comes while a piece waits for the client, the end included, is passed on after it."""
    task = await begin(relay, client, b"abc")
    relay.on_data(b"def", is_last=False)
    relay.on_end()
    client.has_read.set()
    await asyncio.wait_for(task, 30)
    assert client.body == b"abcdef"


async def test_a_whole_answer_breaks_while_its_client_is_slow(
    relay: ResponseStream, client: SlowClient, record: RequestRecord
) -> None:
    """The same with an engine that breaks off."""
    task = await begin(relay, client, b"abc")
    relay.on_broken(UpstreamError("gone"))
    client.has_read.set()
    with pytest.raises(UpstreamError, match="gone"):
        await asyncio.wait_for(task, 30)
    assert record.outcome is Outcome.UPSTREAM_BROKEN


async def test_a_late_refusal_is_no_longer_than_may_be_held(
    relay: ResponseStream, client: SlowClient
) -> None:
    """An endless refusal after a stream was opened early ends as one error event, not as a wait for ever."""
    client.has_read.set()
    await relay.open_event_stream((b"x-request-id", b"id"))
    relay.on_head(400, [(b"content-type", b"application/json")])
    relay.on_data(b'{"error": "' + b"x" * 300_000, is_last=False)
    await asyncio.wait_for(relay.continue_event_stream(), 30)
    event = client.chunks[-1]
    assert len(event) < 1000
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == 502


async def test_a_piece_is_not_held_beside_the_transport(relay: ResponseStream, client: SlowClient) -> None:
    """What was given to a client's transport, however large, is not kept by its stream as well."""
    client.has_read.set()
    relay.on_head(200, [(b"content-type", b"text/event-stream")])
    relay.on_data(b"data: 1\n\n", is_last=False)
    task = asyncio.create_task(relay.pass_on(relay.headers))
    await asyncio.sleep(0)
    assert client.chunks == [b"data: 1\n\n"]
    piece = b"data: " + b"x" * 200_000 + b"\n\n"
    before = sys.getrefcount(piece)
    relay.on_data(piece, is_last=False)
    client.chunks.clear()
    assert sys.getrefcount(piece) == before
    relay.on_end()
    await asyncio.wait_for(task, 30)


@pytest.mark.parametrize("keeps_alive", [ResponseStream.probe, ResponseStream.tick], ids=["probe", "tick"])
async def test_no_comment_follows_the_end(
    relay: ResponseStream, client: SlowClient, keeps_alive: Callable[[ResponseStream], None]
) -> None:
    """A comment behind a stream's last chunk would stand where the next answer on the connection begins."""
    client.has_read.set()
    relay.on_head(200, [(b"content-type", b"text/event-stream")])
    relay.on_data(b"data: 1\n\n", is_last=False)
    task = asyncio.create_task(relay.pass_on(relay.headers))
    await asyncio.sleep(0)
    relay.on_data(b"data: [DONE]\n\n", is_last=True)
    relay.on_end()
    # Before the stream's task is told of the end.
    keeps_alive(relay)
    keeps_alive(relay)
    await asyncio.wait_for(task, 30)
    assert client.chunks == [b"data: 1\n\n", b"data: [DONE]\n\n"]


@pytest.mark.parametrize(
    ("kind", "comments"),
    [(b"text/event-stream", [KEEP_ALIVE]), (b"audio/pcm", []), (b"application/json", [])],
)
async def test_comments_are_for_event_streams(
    relay: ResponseStream, client: SlowClient, kind: bytes, comments: list[bytes]
) -> None:
    """Any other answer of open length may pause after an empty line too; a comment would be part of it."""
    client.has_read.set()
    relay.on_head(200, [(b"content-type", kind)])
    relay.on_data(b"1\n\n", is_last=False)
    task = asyncio.create_task(relay.pass_on(relay.headers))
    await asyncio.sleep(0)
    relay.tick()
    relay.tick()
    assert client.chunks == [b"1\n\n", *comments]
    relay.on_end()
    await asyncio.wait_for(task, 30)


async def test_a_message_stream_breaks_in_its_own_dialect(client: SlowClient) -> None:
    """Anthropic's clients are told by an event with its name, after what was cut short has been ended."""
    client.has_read.set()
    relay = ResponseStream(client, client.send, RequestRecord("id", "POST", "/v1/messages"), EngineActivity())
    relay.on_head(200, [(b"content-type", b"text/event-stream")])
    relay.on_data(b'event: message_start\ndata: {"type":', is_last=False)
    task = asyncio.create_task(relay.pass_on(relay.headers))
    await asyncio.sleep(0)
    relay.on_broken(UpstreamError("gone"))
    await asyncio.wait_for(task, 30)
    name, data = client.chunks[-1].removeprefix(b"\n\n").split(b"\n", 1)
    assert name == b"event: error"
    assert json.loads(data.removeprefix(b"data: ")) == {
        "type": "error",
        "error": {"type": "api_error", "message": "The engine broke off this request"},
        "request_id": "id",
    }
