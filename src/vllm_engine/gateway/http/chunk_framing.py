"""Chunked transfer coding (RFC 9112, section 7.1): events as servers send them, known without a parser.

vLLM sends each event of a stream as a chunk of its own. Such a chunk is passed on as it is.
"""

from __future__ import annotations

from typing import Final

LARGEST_EVENT: Final = 1024
"""Bytes with the framing; a token's event has some 300, and with logprobs more than this."""

_NO_SUCH_LENGTH: Final = b"\0"
"""16 bytes of content take 20 with the framing and 15 take 19: none takes 21 with one digit or two."""


def _size_lines(digits: str) -> tuple[bytes, ...]:
    """Return the line that a plain chunk begins with, by the chunk's length."""
    lines = [_NO_SUCH_LENGTH] * (LARGEST_EVENT + 1)
    for size in range(1, LARGEST_EVENT):
        line = format(size, digits).encode() + b"\r\n"
        length = len(line) + size + 2
        if length <= LARGEST_EVENT:
            lines[length] = line
    return tuple(lines)


_LOWER: Final = _size_lines("x")
"""As uvicorn and h11 write sizes, and so vLLM's Python frontend."""
_UPPER: Final = _size_lines("X")
"""As hyper does, and so vLLM's Rust frontend."""

FRAMING_BYTES: Final = tuple(len(line) + 2 for line in _LOWER)
"""How much of a plain chunk is not content, by the chunk's length."""


def is_event(data: bytes) -> bool:
    """Return whether data, which begins where a chunk does, is one whole, plain chunk, and ends an event.

    Whatever else comes is for a parser: part of a chunk, more than one, a large one, one with an extension or
    with leading zeros, the last one, trailers.
    """
    length = len(data)
    return (
        length <= LARGEST_EVENT
        and (data.startswith(_LOWER[length]) or data.startswith(_UPPER[length]))
        and data.endswith(b"\n\n\r\n")
    )


def chunk_of(content: bytes) -> bytes:
    """Return content as one chunk."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def content_of(chunk: bytes) -> bytes:
    """Return what is in one plain chunk."""
    return chunk[chunk.index(b"\n") + 1 : -2]
