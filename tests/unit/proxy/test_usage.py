"""Token use: what vLLM says at the end of each kind of answer, however it is cut, and never an exception."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake.fake_requests import Api, Job
from tests.support.fake.fake_shapes import ChatShape, CompletionShape, Shape, dump
from tests.support.fake.fake_shapes_newer import MessagesShape, ResponsesShape
from vllm_engine.gateway.http.chunk_framing import chunk_of
from vllm_engine.gateway.observe.usage import UsageReader

PROMPT, WORDS = 11, (" fox", ' is "longer"', " 日本語", '"usage":{"prompt_tokens":666}', " 😀", "\n\n", ".")
SHAPES: dict[Api, Callable[[Job], Shape]] = {
    "chat": ChatShape, "completion": CompletionShape, "responses": ResponsesShape, "messages": MessagesShape,
}  # fmt: skip


def job(api: Api, **body: Any) -> Job:
    return Job(api, body, "0123", "a/model", PROMPT, prompts=1, max_tokens=4096)


def stream(api: Api, tokens: int, **body: Any) -> list[bytes]:
    """Return the events of an answer."""
    shape = SHAPES[api](job(api, stream=True, **body))
    words = [WORDS[number % len(WORDS)] for number in range(tokens)]
    pieces = [shape.piece(0, word, at, None) for at, word in enumerate(words, 1)]
    return [*shape.opening(), *pieces, *shape.closing(["".join(words)], tokens, "stop")]


def read(chunks: Iterable[bytes]) -> tuple[int | None, int | None, bool]:
    """Return what a reader makes of these chunks."""
    reader = UsageReader()
    for chunk in chunks:
        reader.feed(chunk)
    return (*reader.tokens(), reader.is_estimate)


def pieces(whole: bytes, size: int) -> list[bytes]:
    return [whole[at : at + size] for at in range(0, len(whole), size)]


@pytest.mark.parametrize("api", SHAPES)
def test_each_api_tells_its_use(api: Api) -> None:
    """Whole, also when it is far longer than what is kept, and as a stream, in chunks of any size.

    Of a stream whose client left, the events so far are counted.
    """
    for tokens in (1, 300):
        body = dump(SHAPES[api](job(api)).whole(["".join(WORDS) * tokens], tokens, "stop"))
        assert read([body]) == read(pieces(body, 7)) == (PROMPT, tokens, False)
        events = stream(api, tokens, stream_options={"include_usage": True})
        for chunks in (events, *(pieces(b"".join(events), size) for size in (1, 61, 65_536))):
            assert read(chunks) == (PROMPT, tokens, False)
    opening = len(stream(api, 0)) - len(list(SHAPES[api](job(api)).closing([""], 0, "stop")))
    for given_up in (40, 200):
        *begun, last = events[: opening + given_up]
        _, completion, is_estimate = read([*begun, last[:-1]])  # cut before its last line ends
        assert (completion in (given_up - 1, given_up), is_estimate) == (True, True)


def test_streams_without_an_end_that_tells() -> None:
    """The events are counted, and the count is marked as an estimate; use in every chunk is exact."""
    for api in ("chat", "completion"):
        for tokens in (1, 300):
            assert read(stream(api, tokens)) == (None, tokens, True)
    assert read(stream("messages", 300)[:7]) == (PROMPT, 5, True)  # not the zero in message_start
    options = {"include_usage": True, "continuous_usage_stats": True}
    assert read(stream("chat", 300, stream_options=options)[:120]) == (PROMPT, 119, False)


def of_rust(kind: str, opening: str, piece: str, closing: str, tokens: int) -> list[bytes]:
    """Return the events of a stream of vLLM's Rust frontend, which leaves out what is null."""
    head = f'data: {{"id":"x-1","object":"{kind}","created":1,"model":"a/model","choices":[{{"index":0,'
    choices = [*([opening] if opening else []), *[piece] * tokens, closing]
    return [f"{head}{choice}}}]}}\n\n".encode() for choice in choices] + [b"data: [DONE]\n\n"]


@pytest.mark.parametrize(("kind", "opening", "piece", "closing"), [
    ("chat.completion.chunk", '"delta":{"role":"assistant"}', '"delta":{"content":" fox"}', '"delta":{},"finish_reason":"stop"'),
    ("text_completion", "", '"text":" fox"', '"text":"","finish_reason":"length"'),
])  # fmt: skip
def test_the_rust_frontend_ends_a_stream_with_an_event_that_is_no_token(
    kind: str, opening: str, piece: str, closing: str
) -> None:
    for tokens in (0, 1, 300):
        events = of_rust(kind, opening, piece, closing, tokens)
        assert read(events) == (None, tokens, True)
        if tokens:
            assert read(events[:-2]) == (None, tokens, True)  # the client left


def test_embeddings_and_the_cached_prompt_of_messages() -> None:
    """Embeddings use prompt tokens only; Anthropic's input_tokens leave out what came from the cache."""
    usage = {"prompt_tokens": 5, "total_tokens": 5, "completion_tokens": 0, "prompt_tokens_details": None}
    body = {"data": [{"index": 0, "object": "embedding", "embedding": [0.1] * 4096}], "usage": usage}
    assert read([dump(body)]) == read([json.dumps(body, indent=1).encode()]) == (5, 0, False)
    cached = {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 16}
    assert read([dump({"usage": {**cached, "cache_creation_input_tokens": None}})]) == (19, 2, False)


def test_nothing_to_read() -> None:
    """Compressed and broken answers, errors and other routes tell nothing."""
    for body in (
        gzip.compress(b"".join(stream("chat", 50))),
        b'{"usage":"much"}',
        b'{"usage":{"prompt_tokens":"5","completion_tokens":true}}',
        b'{"usage":{"prompt_tokens":-1,"completion_tokens":1.5}}',
        b'{"usage":{"prompt_tokens":5,',
        b'{"usage":{"prompt_tokens":1' + b"0" * 400 + b"}}",
        b'{"usage":' + b"[" * 4000,
        b'{"input_tokens":7,"context_management":{"original_input_tokens":7}}',
        bytes(range(256)),
    ):
        assert read([body]) == (None, None, False), body[:60]


@given(st.lists(st.binary(max_size=50) | st.sampled_from([b'"usage":', b"{", b"[", b"\n", b"data: [DONE]"])))
@settings(max_examples=200, deadline=None)
def test_never_raises(chunks: list[bytes]) -> None:
    read(chunks)


def test_what_is_kept_is_bounded() -> None:
    """Of pieces and of events, and the end of both is known."""
    reader = UsageReader()
    for _ in range(1000):
        reader.feed(bytes(1000))
    assert len(reader.tail) <= 9 * 1024
    reader.feed(bytes(1 << 20))
    assert len(reader.tail) <= 9 * 1024
    for number in range(1000):
        reader.feed_event(chunk_of(b"data: %0*d\n\n" % (900, number)))
    assert len(reader.tail) <= 12 * 1024
    assert reader.tail.count(b"data: ") >= 4
    assert reader.end == b"99\n\n"
    reader.feed(b"abcd")
    assert reader.tail.endswith(b"999\n\nabcd")
    assert reader.size == 1_000_000 + (1 << 20) + 1000 * 908 + 4
