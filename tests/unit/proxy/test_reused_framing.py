"""Chunks that are passed on as they came: however the engine's bytes are split, clients get the same."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.virtual.virtual_time import settle
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.gateway.http.chunk_framing import chunk_of
from vllm_engine.gateway.http.client_stream import ClientStream
from vllm_engine.gateway.http.uvicorn_adapter import UvicornConnection
from vllm_engine.gateway.observe.request_record import RequestRecord
from vllm_engine.gateway.proxy.response_stream import KEEP_ALIVE, ResponseStream
from vllm_engine.gateway.proxy.upstream_connection import UpstreamConnection

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = b'data: {"object":"chat.completion.chunk","usage":{"prompt_tokens":7,"completion_tokens":%d}}\n\n'


class Transport:
    """Keeps what is written; stands in for both sides."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_paused = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def get_extra_info(self, _: str) -> Transport:
        return self

    def fileno(self) -> int:
        return 0  # registered, never asked

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def abort(self) -> None:
        pass


class Uvicorn:
    """Stands in for the client's connection."""

    has_response_begun = True

    def __init__(self, transport: Transport, *, is_http_1_0: bool) -> None:
        self.is_http_1_0 = is_http_1_0
        self._transport = transport
        self._ends_itself = False

    def hold_head(self, *, is_chunked: bool) -> None:
        assert is_chunked is not self.is_http_1_0

    def take_head(self) -> bytes:
        return b""

    def leave_end_out(self) -> None:
        self._ends_itself = True

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and not (self._ends_itself or self.is_http_1_0):
            self._transport.write(b"0\r\n\r\n")


class Passed:
    """One response that was passed on: what the client got, and what was noted of it."""

    def __init__(self) -> None:
        self.wire: list[bytes] = []
        self.kept = 0
        self.noted: tuple[object, ...] = ()

    async def play(self, reads: list[bytes], *, is_http_1_0: bool = False, ticks: bool = False) -> Passed:
        """Have the engine's bytes read in these pieces; with `ticks`, silence between any two."""
        upstream, client = Transport(), Transport()
        connection = UpstreamConnection(lambda _: self._keep(), lambda _: None)
        connection.connection_made(cast(asyncio.Transport, upstream))
        uvicorn = Uvicorn(client, is_http_1_0=is_http_1_0)
        record = RequestRecord("id", "POST", "/v1/chat/completions", is_core_work=True, is_stream=True)
        activity = EngineActivity()
        stream = ResponseStream(
            ClientStream(cast(UvicornConnection, uvicorn), cast(asyncio.Transport, client)),
            cast(Any, uvicorn.send), record, activity,
        )  # fmt: skip
        stream.attach(connection)
        connection.start(b"POST / HTTP/1.1\r\n\r\n", b"", stream)

        async def answer() -> None:
            await stream.until_begun()
            await stream.pass_on(stream.headers)

        task = asyncio.create_task(answer())
        for data in reads:
            connection.data_received(data)
            await settle()
            if ticks:
                stream.tick()
                stream.tick()
        await asyncio.wait_for(task, 60)  # one that has lost its place waits for ever
        self.wire = client.written
        self.noted = (*stream.usage.tokens(), stream.usage.size, activity.progress > 0, activity.running)
        return self

    def _keep(self) -> None:
        self.kept += 1

    @property
    def body(self) -> bytes:
        """The body as a client reads it."""
        got: list[bytes] = []
        ended: list[bool] = []

        class Reader:
            def on_body(self, body: bytes) -> None:
                got.append(body)

            def on_message_complete(self) -> None:
                ended.append(True)

        httptools.HttpResponseParser(Reader()).feed_data(HEAD + b"".join(self.wire))
        assert ended == [True]
        return b"".join(got)


def played(*args: Any, **kwargs: Any) -> Passed:
    return asyncio.run(Passed().play(*args, **kwargs))


def events(texts: list[bytes]) -> list[bytes]:
    return [*(b"data: %s\n\n" % text for text in texts), USAGE % len(texts), b"data: [DONE]\n\n"]


@st.composite
def framed(draw: st.DrawFn, pieces: list[bytes]) -> bytes:
    """Frame a body in any of the ways that RFC 9112 allows, events whole or not."""
    body, at, whole = b"".join(pieces), 0, b""
    ends = [len(b"".join(pieces[:n])) for n in range(1, len(pieces) + 1)]
    cuts = sorted({*ends, *draw(st.lists(st.integers(1, len(body)), max_size=3))} - set(draw(st.lists(st.sampled_from(ends), max_size=2))))  # fmt: skip
    for cut in dict.fromkeys((*cuts, len(body))):
        size = draw(st.sampled_from(["%x", "%x", "%X", "0%x", "%x;ext=1"])) % (cut - at)
        whole += size.encode() + b"\r\n" + body[at:cut] + b"\r\n"
        at = cut
    return whole + draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n"]))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_framing_in_any_reads_is_the_same_response(data: st.DataObject) -> None:
    texts = data.draw(
        st.lists(st.binary(max_size=300).map(lambda raw: raw.hex().encode()), min_size=1, max_size=30)
    )
    pieces = events(texts)
    stream = data.draw(framed(pieces))
    # Reads end where chunks end, as from a server that writes each at once, or anywhere.
    chunk_ends = [at + 2 for at in range(len(stream)) if stream.startswith(b"\r\n", at)]
    cuts = sorted({*data.draw(st.lists(st.sampled_from(chunk_ends), max_size=40)), *data.draw(st.lists(st.integers(1, len(stream)), max_size=4))})  # fmt: skip
    reads = [HEAD, *(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a != b)]
    passed = played(reads)
    assert passed.body == b"".join(pieces)
    assert passed.noted == (7, len(texts), len(b"".join(pieces)), True, 0)
    assert passed.kept == 1
    old = played(reads, is_http_1_0=True)
    assert b"".join(old.wire) == b"".join(pieces)
    # A comment stands between two events, wherever the engine is silent.
    with_comments = played(reads, ticks=True).body
    whole = [each + b"\n\n" for each in with_comments.split(b"\n\n")[:-1]]
    assert [each for each in whole if each != KEEP_ALIVE] == pieces


def test_an_event_in_a_chunk_of_its_own_is_passed_on_as_it_came() -> None:
    """With the size as the engine wrote it: the bytes that were read are the bytes that are written."""
    first, *others = (
        b"%X\r\n%b\r\n" % (len(each), each) for each in events([b"a" * 42, b"b" * 42, b"c" * 42])
    )
    passed = played([HEAD + first, *others, b"0\r\n\r\n"])
    assert passed.wire[1:-1] == others


def test_what_looks_like_a_chunk_within_one_is_none() -> None:
    """Where a read begins within a size or within a chunk, bytes that look like an event are what they are."""
    first = b"5\r\nabc\n\n\r\n"
    content = first + b"x" * 10 + b"\n\n"
    chunk = b"%x\r\n%b\r\n" % (len(content), content)
    inner = b"15\r\nabc\n\n\r\n" + b"x" * 12 + b"\n\n\r\n"
    open_end = b"abc\n\n\r\n"
    longer = chunk_of(open_end + content)
    for reads, body in (
        (
            [longer[: 4 + len(open_end)], first, longer[4 + len(open_end) + len(first) :]],
            b"abc\n\n" + open_end + content,
        ),
        ([chunk[:4], first, chunk[4 + len(first) :]], b"abc\n\n" + content),
        ([first + inner[:1], inner[1:11], inner[11:]], b"abc\n\n" * 2 + inner[4:-2]),
    ):
        assert played([HEAD + first, *reads, b"0\r\n\r\n"]).body == body


def test_only_what_the_core_made_is_progress() -> None:
    names = (b"response.created", b"response.in_progress")
    chunks = [chunk_of(b"event: %s\ndata: {}\n\n" % name) for name in names]
    assert played([HEAD, *chunks, b"0\r\n\r\n"]).noted[3] is False
    assert (
        played([HEAD, *chunks, chunk_of(b"event: response.output_text.delta\n\n"), b"0\r\n\r\n"]).noted[3]
        is True
    )


def test_estimates_count_events_that_passed_whole() -> None:
    """Of a stream without usage, whether an event has one line or two."""
    for text, without_token in (
        (b'data: {"object":"chat.completion.chunk"}\n\n', 1),
        (b"event: content_block_delta\ndata: {}\n\n", 2),
    ):
        passed = played([HEAD, *[chunk_of(text)] * 40, b"0\r\n\r\n"])
        assert passed.noted[1] == 40 - without_token
