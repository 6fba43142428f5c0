"""Chunks that are events, known without a parser: never one that a parser would read otherwise."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_engine.gateway.http.chunk_framing import (
    FRAMING_BYTES,
    LARGEST_EVENT,
    chunk_of,
    content_of,
    is_event,
)

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Parsed:
    """What llhttp makes of data that comes where a chunk begins."""

    def __init__(self, data: bytes) -> None:
        self.body: list[bytes] = []
        self.is_chunk_open = True
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(HEAD)
        parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_chunk_header(self) -> None:
        self.is_chunk_open = True

    def on_chunk_complete(self) -> None:
        self.is_chunk_open = False


def event(size: int) -> bytes:
    return b"x" * (size - 2) + b"\n\n"


def test_an_event_of_any_size_is_known() -> None:
    for size in range(2, 1200):
        chunk = chunk_of(event(size))
        line, _, rest = chunk.partition(b"\r\n")
        for each in (chunk, line.upper() + b"\r\n" + rest):
            assert is_event(each) is (len(each) <= LARGEST_EVENT), size
            assert content_of(each) == event(size)
            if is_event(each):
                assert FRAMING_BYTES[len(each)] == len(each) - size


@pytest.mark.parametrize("data", [
    b"", b"\r\n", b"0\r\n\r\n", b"\n\n\r\n", b"5\r\nabc\r\n", b"5\r\nabcde\r\n", b"5\r\nabc\nd\r\n", b"5\r\nabc\n\n",
    b"6\r\nabc\n\n\r\n", b"4\r\nabc\n\n\r\n", b"05\r\nabc\n\n\r\n", b"0x5\r\nabc\n\n\r\n", b"+5\r\nabc\n\n\r\n",
    b" 5\r\nabc\n\n\r\n", b"5 \r\nabc\n\n\r\n", b"5;a=b\r\nabc\n\n\r\n", b"5\nabc\n\n\r\n", b"-5\r\nabc\n\n\r\n",
    b"3\r\na\n\n\r\n3\r\nb\n\n\r\n", b"5\r\nabc\n\n\r\n0\r\n\r\n", b"5\r\nabc\n\n\r\n5", b"\0abc\n\n\r\n" + b"x" * 14 + b"\n\n\r\n",
])  # fmt: skip
def test_whatever_else_comes_is_for_the_parser(data: bytes) -> None:
    assert not is_event(data)


_PIECES = st.binary(max_size=8) | st.sampled_from(
    [b"\r\n", b"\n\n", b"\n\n\r\n", b"5\r\n", b"a\r\nx", b"0\r\n\r\n", b"1f"]
)


@given(st.lists(_PIECES, max_size=12))
@settings(max_examples=400, deadline=None)
def test_the_parser_agrees(pieces: list[bytes]) -> None:
    for data in (b"".join(pieces), chunk_of(b"".join(pieces) + b"\n\n"), b"".join(pieces) + b"\n\n\r\n"):
        if is_event(data):
            parsed = Parsed(data)
            assert b"".join(parsed.body) == content_of(data)
            assert not parsed.is_chunk_open
