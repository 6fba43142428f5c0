"""One response on its way: nothing is lost or waited for in vain, and only progress counts as progress."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.support.virtual.stand_in_client import StandInClient
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.engine_state import Frontend
from vllm_engine.gateway.observe.request_record import Outcome, RequestRecord
from vllm_engine.gateway.proxy.request_work import EngineWork
from vllm_engine.gateway.proxy.response_stream import KEEP_ALIVE, ResponseStream
from vllm_engine.gateway.proxy.upstream_connection import UpstreamConnection, UpstreamError

EVENT_STREAM = [(b"content-type", b"text/event-stream")]
LENGTH = [(b"content-length", b"6")]


class Case:
    """A response that the test plays, to a client that reads unless it is told not to."""

    def __init__(self, path: str = "/v1/chat/completions", *, is_core_work: bool = True) -> None:
        self.client = StandInClient()
        self.record = RequestRecord("id", "POST", path, is_core_work=is_core_work)
        self.activity = EngineActivity()
        self.stream = ResponseStream(self.client, self.client.send, self.record, self.activity)

    async def begin(self, headers: list[tuple[bytes, bytes]], first: bytes) -> asyncio.Task[None]:
        """Pass on a head and a first piece."""
        self.stream.on_head(200, headers)
        self.stream.on_data(first, is_last=False)
        task = asyncio.create_task(self.stream.pass_on(headers))
        await asyncio.sleep(0)
        return task

    def attach(self) -> None:
        self.stream.attach(UpstreamConnection(print, print))


@in_virtual_time
async def test_a_whole_response_ends_or_breaks_while_its_client_is_slow() -> None:
    """What comes while a piece waits for the client, the end included, is passed on after it."""
    for is_broken in (False, True):
        case = Case()
        case.client.reads.clear()
        task = await case.begin(LENGTH, b"abc")
        if is_broken:
            case.stream.on_broken(UpstreamError("gone"))
        else:
            case.stream.on_data(b"def", is_last=False)
            case.stream.on_end()
        case.client.reads.set()
        await asyncio.wait({task}, timeout=1)
        assert case.client.body == (b"abc" if is_broken else b"abcdef")
        assert case.client.is_ended is not is_broken
        assert isinstance(task.exception(), UpstreamError) is is_broken
        assert (case.record.outcome is Outcome.UPSTREAM_BROKEN) is is_broken


@in_virtual_time
async def test_a_late_refusal_is_not_longer_than_may_be_held() -> None:
    """One without an end after a stream was opened early ends as one error event, not as a wait without end."""
    case = Case()
    await case.stream.open_event_stream((b"x-request-id", b"id"))
    case.stream.on_head(400, [(b"content-type", b"application/json")])
    case.stream.on_data(b'{"error": "' + b"x" * 300_000, is_last=False)
    await asyncio.wait_for(case.stream.continue_event_stream(), 30)
    event = case.client.chunks[-1]
    assert len(event) < 1000
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == 502


@in_virtual_time
async def test_a_piece_is_not_held_beside_the_transport() -> None:
    case = Case()
    task = await case.begin(EVENT_STREAM, b"data: 1\n\n")
    piece = b"data: " + b"x" * 200_000 + b"\n\n"
    before = sys.getrefcount(piece)
    case.stream.on_data(piece, is_last=False)
    case.client.chunks.clear()
    assert sys.getrefcount(piece) == before
    case.stream.on_end()
    await task


@in_virtual_time
async def test_comments_are_for_event_streams_between_events() -> None:
    """Behind the last chunk one would stand where the connection's next response begins, elsewhere in the body."""
    for keep_alive in (ResponseStream.probe, ResponseStream.tick):
        case = Case()
        task = await case.begin(EVENT_STREAM, b"data: 1\n\n")
        case.stream.on_data(b"data: [DONE]\n\n", is_last=True)
        case.stream.on_end()
        # Before the stream's task is told of the end.
        keep_alive(case.stream)
        keep_alive(case.stream)
        await task
        assert case.client.chunks == [b"data: 1\n\n", b"data: [DONE]\n\n"]
    for kind, piece, comments in (
        (b"text/event-stream", b"1\n\n", [KEEP_ALIVE]), (b"text/event-stream", b"1\n", []), (b"audio/pcm", b"1\n\n", []),
    ):  # fmt: skip
        case = Case()
        task = await case.begin([(b"content-type", kind)], piece)
        case.stream.tick()
        case.stream.tick()
        assert case.client.chunks == [piece, *comments]
        case.stream.on_end()
        await task


@in_virtual_time
async def test_a_message_stream_breaks_in_its_own_dialect() -> None:
    """Anthropic's clients are told by an event with its name, after what was cut short has been ended."""
    case = Case("/v1/messages")
    task = await case.begin(EVENT_STREAM, b'event: message_start\ndata: {"type":')
    case.stream.on_broken(UpstreamError("gone"))
    await task
    name, data = case.client.chunks[-1].removeprefix(b"\n\n").split(b"\n", 1)
    assert name == b"event: error"
    error = {"type": "api_error", "message": "The engine broke off this request"}
    assert json.loads(data.removeprefix(b"data: ")) == {"type": "error", "error": error, "request_id": "id"}


@in_virtual_time
async def test_a_stream_that_its_client_does_not_read_is_not_work() -> None:
    """While it is paused the engine cannot go on with it; read on, it is work again."""
    case = Case()
    case.attach()
    stream, seen = case.stream, [case.activity.running]
    for step in (stream.pause, stream.pause, stream.resume, stream.resume, stream.pause, stream.abort, stream.abort):  # fmt: skip
        step()
        seen.append(case.activity.running)
    assert seen == [1, 0, 0, 1, 1, 0, 0, 0]
    case.attach()  # a pause belongs to one connection
    assert case.activity.running == 1
    stream.on_head(200, LENGTH)
    stream.on_data(b"x" * 300_000, is_last=False)  # more than may be held pauses the engine too
    assert case.activity.running == 0
    stream.reset()
    case.attach()
    assert case.activity.running == 1


@in_virtual_time
async def test_it_is_work_until_the_engine_is_done() -> None:
    """And not until its client has read everything; on a route without the core it is none, nor progress."""
    for is_broken in (False, True):
        case = Case()
        case.attach()
        case.stream.on_head(200, [])
        assert case.activity.running == 1
        if is_broken:
            case.stream.on_broken(UpstreamError("gone"))
        else:
            case.stream.on_end()
        case.stream.pause()
        case.stream.resume()
        assert case.activity.running == 0
    case = Case(is_core_work=False)
    case.attach()
    running = case.activity.running
    case.stream.on_head(200, [])
    case.stream.on_data(b"{}", is_last=True)
    assert (running, case.activity.progress) == (0, 0)


CREATED = b'event: response.created\ndata: {"type":"response.created"}\n\n'
IN_PROGRESS = b'event: response.in_progress\ndata: {"type":"response.in_progress"}\n\n'
DELTA = b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n'
CHUNK = b'data: {"choices":[]}\n\n'


def test_only_what_vllm_cannot_say_without_its_core_is_progress() -> None:
    for status, is_event_stream, pieces, beats in (
        (200, False, [b'{"choices"', b":[]}"], 2),
        (400, False, [b'{"error":{}}'], 0),
        (200, True, [CHUNK, CHUNK], 2),
        (200, True, [], 0),
        (200, True, [b": ping\n\n", b'data: {"error":{}}\n\n'], 0),
        (200, True, [CREATED, IN_PROGRESS], 0),
        (200, True, [CREATED[:30], CREATED[30:], IN_PROGRESS, DELTA, DELTA], 2),
        (200, True, [CREATED + IN_PROGRESS + DELTA, b'data: "}\n\n'], 2),
    ):
        activity = EngineActivity()
        work = EngineWork(activity)
        work.begin(Frontend.RUST)
        work.responded(status, is_event_stream=is_event_stream)
        for piece in pieces:
            work.received(piece)
        assert activity.progress == activity.of[Frontend.RUST].progress == beats, pieces


def test_the_oldest_request_at_the_engine() -> None:
    """Given to the other frontend, or once more, a request is the newest; one that is paused is still there."""
    activity, python, rust = EngineActivity(), Frontend.PYTHON, Frontend.RUST
    first, second = EngineWork(activity), EngineWork(activity)
    first.begin(rust)
    second.begin(python)
    first.pause()
    assert activity.at_engine == (rust, python)
    assert [activity.of[one].running for one in (python, rust)] == [1, 0]
    first.begin(python)
    assert activity.at_engine == (python, python)
    assert [activity.of[one].running for one in (python, rust)] == [2, 0]
    for work in (first, second, second):
        work.end()
    assert list(activity.at_engine) == []
    assert activity.running == 0
