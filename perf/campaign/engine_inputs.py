"""What an engine may answer, well or badly: pieces, what it does then, and what its client must be given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random

from perf.campaign.improper_inputs import mutated
from perf.campaign.inputs import tag
from perf.campaign.proper_inputs import chunked, cut
from tests.support.raw_http import chunk

DONE = b"data: [DONE]\n\n"
_NOBODYS = tag(10**9).encode()
"""What nobody has asked for."""


class Then(Enum):
    """What the engine does with its connection after its answer."""

    KEEP = "keeps it for the next request"
    CLOSE = "closes it"


class Due(Enum):
    """What the client must be given."""

    WHOLE = "this answer, to the byte"
    STREAM = "these events, to the byte"
    BROKEN = "a 502 or 503, a close in the middle, or an error event"
    ANY = "one of those"


@dataclass(frozen=True)
class EngineInput:
    """One answer of an engine.

    Attributes:
        kind: for the report.
        pieces: each is a write of its own.
        then: what it does afterwards.
        due: what its client must be given; `status` and `body` say what is whole.
        early: it answers once it has the head, and reads no body.
        body_bytes: what its client sends.
    """

    kind: str
    pieces: tuple[bytes, ...]
    then: Then
    due: Due
    status: int = 200
    body: bytes = b""
    early: bool = False
    body_bytes: int = 0


def _body(rng: Random, index: int) -> bytes:
    return tag(index).encode() + rng.randbytes(rng.choice((0, 10, 1000, 70_000, 300_000)))


def _events(rng: Random, index: int) -> list[bytes]:
    count = rng.randrange(1, 40)
    return [b'data: {"choices": [], "n": %d, "t": "%b"}\n\n' % (n, tag(index).encode()) for n in range(count)]


def _head(rng: Random, status: int, *lines: str) -> bytes:
    some = [f"X-{rng.randrange(10**6)}: {'y' * rng.randrange(300)}" for _ in range(rng.randrange(5))]
    every = [*some, *lines]
    rng.shuffle(every)
    reason = rng.choice(("OK", "", "What ever", "\x80"))
    return "\r\n".join([f"HTTP/1.1 {status} {reason}", *every, "", ""]).encode("latin-1")


def _whole(rng: Random, index: int) -> EngineInput:
    status = rng.choice((200, 200, 201, 400, 404, 413, 418, 422, 429, 500, 503))
    body = _body(rng, index)
    match rng.randrange(3):
        case 0:
            data, then = _head(rng, status, f"Content-Length: {len(body)}") + body, _keep_or_close(rng)
        case 1:
            data, then = (
                _head(rng, status, "Transfer-Encoding: chunked") + chunked(rng, body),
                _keep_or_close(rng),
            )
        case _:
            data, then = _head(rng, status) + body, Then.CLOSE
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * rng.choice((0, 0, 1, 3))
    return EngineInput(
        "whole",
        cut(rng, interim + data),
        then,
        Due.WHOLE,
        status,
        body,
        body_bytes=rng.choice((0, 10, 200_000)),
    )


def _early(rng: Random, index: int) -> EngineInput:
    body = tag(index).encode()
    data = _head(rng, 413, f"Content-Length: {len(body)}", "Connection: close") + body
    size = rng.choice((0, 1000, 290_000))
    return EngineInput("before the request was read", (data,), Then.CLOSE, Due.WHOLE, 413, body, True, size)


def _stream(rng: Random, index: int) -> EngineInput:
    body = b"".join([*_events(rng, index), DONE])
    head = _head(rng, 200, "Content-Type: text/event-stream; charset=utf-8", "Transfer-Encoding: chunked")
    data = head + b"".join(chunk(piece) for piece in cut(rng, body, 60)) + b"0\r\n\r\n"
    return EngineInput("stream", cut(rng, data, 40), _keep_or_close(rng), Due.STREAM, 200, body)


def _cut_stream(rng: Random, index: int) -> EngineInput:
    body = b"".join(_events(rng, index))
    body = body[: rng.randrange(len(body) + 1)]
    head = _head(rng, 200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    data = (
        head
        + b"".join(chunk(piece) for piece in cut(rng, body, 20))
        + rng.choice((b"", b"5\r\nab", b"zz\r\n", b"-1\r\n"))
    )
    return EngineInput("stream cut short", cut(rng, data), Then.CLOSE, Due.BROKEN, 200, body)


def _error_event(rng: Random, index: int) -> EngineInput:
    error = b'data: {"error": {"message": "%b", "type": "x", "code": 500}}\n\n' % tag(index).encode()
    body = b"".join(_events(rng, index)[: rng.choice((0, 3, 40))]) + error + rng.choice((b"", DONE))
    head = _head(rng, 200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    data = head + b"".join(chunk(piece) for piece in cut(rng, body)) + b"0\r\n\r\n"
    return EngineInput("error event", cut(rng, data), _keep_or_close(rng), Due.STREAM, 200, body)


def _cut_short(rng: Random, index: int) -> EngineInput:
    body = tag(index).encode() + rng.randbytes(rng.choice((10, 1000, 200_000)))
    if rng.random() < 0.5:
        data = _head(rng, 200, f"Content-Length: {len(body) + rng.choice((1, 1000, 10**12))}") + body
    else:
        data = _head(rng, 200, "Transfer-Encoding: chunked") + chunked(rng, body)[: -rng.randrange(1, 5)]
    data = rng.choice((data, data[: rng.randrange(len(data))]))
    return EngineInput("cut short", cut(rng, data), Then.CLOSE, Due.BROKEN)


def _changed(rng: Random, index: int) -> EngineInput:
    whole = rng.choice((_whole, _stream, _error_event))(rng, index)
    data = mutated(rng, b"".join(whole.pieces)[:5000], rng.randrange(1, 6))
    return EngineInput("bytes changed", cut(rng, data), Then.CLOSE, Due.ANY)


def _odd_head(rng: Random, index: int) -> EngineInput:
    lines = rng.choice(
        (
            ["Content-Length: 2", "Content-Length: 3"],
            ["Content-Length: 2, 2"],
            ["Content-Length: -1"],
            ["Content-Length: 99999999999999999999999"],
            ["Content-Length: 2", "Transfer-Encoding: chunked"],
            ["Transfer-Encoding: gzip"],
            ["Transfer-Encoding: chunked, identity"],
            ["Connection: close, \x00"],
            [" folded: x", "Content-Length: 2"],
            [f"X-{number}: {'y' * 100}" for number in range(rng.choice((100, 500, 5000)))],
            ["X: " + "y" * rng.choice((60_000, 70_000, 500_000))],
            ["Content-Type: " + "text/event-stream" * 5, "Content-Length: 2"],
        )
    )
    start = rng.choice(
        (
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK",
            "HTTP/1.0 200 OK",
            "HTTP/2 200",
            "HTTP/1.1 99 x",
            "HTTP/1.1 1000 x",
            "HTTP/1.1 101 x",
            "x",
        )
    )
    data = "\r\n".join([start, *lines, "", ""]).encode("latin-1") + b"ok"
    return EngineInput("odd head", cut(rng, data), Then.CLOSE, Due.ANY)


def _interim_storm(rng: Random, index: int) -> EngineInput:
    interim = rng.choice((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: <x>\r\n\r\n"))
    body = tag(index).encode()
    data = interim * rng.choice((10, 1000, 20_000)) + _head(rng, 200, f"Content-Length: {len(body)}") + body
    return EngineInput("interim answers", cut(rng, data), Then.CLOSE, Due.ANY)


def _unasked(rng: Random, index: int) -> EngineInput:
    body = tag(index).encode()
    data = _head(rng, 200, f"Content-Length: {len(body)}") + body
    behind = rng.choice(
        (
            b"\r\n",
            b"x",
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_NOBODYS) + _NOBODYS,
            chunk(_NOBODYS),
            rng.randbytes(70_000),
        )
    )
    # In one write: what comes a moment later may come after the next request, and is then its answer by all signs.
    return EngineInput("unasked bytes", (data + behind,), Then.KEEP, Due.WHOLE, 200, body)


def _nothing(rng: Random, index: int) -> EngineInput:
    early, size = rng.choice(((True, 0), (True, 200_000), (False, 1000)))
    return EngineInput("nothing", (), Then.CLOSE, Due.BROKEN, early=early, body_bytes=size)


_MAKERS: tuple[tuple[Callable[[Random, int], EngineInput], int], ...] = (
    (_whole, 10),
    (_early, 4),
    (_stream, 6),
    (_cut_stream, 6),
    (_error_event, 3),
    (_cut_short, 5),
    (_changed, 10),
    (_odd_head, 8),
    (_interim_storm, 2),
    (_unasked, 5),
    (_nothing, 3),
)


def engine_input(seed: int, index: int) -> EngineInput:
    """Return the input of this index: the same for the same seed, whatever other inputs there are."""
    rng = Random(f"{seed}/engine/{index}")
    return rng.choices([maker for maker, _ in _MAKERS], [weight for _, weight in _MAKERS])[0](rng, index)


def _keep_or_close(rng: Random) -> Then:
    return rng.choice((Then.KEEP, Then.CLOSE))
