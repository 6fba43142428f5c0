"""Inputs that are in order, however odd: each has one right answer, and it is known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from perf.campaign.inputs import (
    BEARER,
    MAX_BODY_BYTES,
    Check,
    Ending,
    Input,
    Reading,
    echoes,
    says,
    status,
    streams,
    tag,
)
from tests.support.fake.fake_state import WORDS
from tests.support.raw_http import post_json, request

_QUERY = "abcxyzABC019-._~=&+!$'()*,;:@/?%"
_NAME = "abcdefghijklmnopqrstuvwxyz0123456789-_!#$%&'*+.^`|~"
_VALUE = bytes([9, *range(32, 127), *range(128, 256)]).decode("latin-1")
_SIZES = (0, 1, 2, 100, 1000, 8192, 65_535, 65_536, 65_537, MAX_BODY_BYTES)
_SIZE_WEIGHTS = (3, 3, 3, 6, 6, 3, 1, 1, 1, 1)
_TEXTS = ("Hi", "", "日本語 😀", '"stream": true', '\\"stream\\":true', "\u0000\u001f", "a" * 5000, "}{][")


def cut(rng: Random, data: bytes, most: int = 8) -> tuple[bytes, ...]:
    """Cut into pieces, anywhere."""
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(most)))
    bounds = [0, *places, len(data)]
    return tuple(data[a:b] for a, b in itertools.pairwise(bounds) if a < b)


def words(count: int) -> str:
    """Return what the fake engine says in so many tokens."""
    return "".join(WORDS[number % len(WORDS)] for number in range(count))


def echo_request(rng: Random, index: int, *, size: int | None = None) -> tuple[bytes, Check]:
    """Return a request that the engine echoes, in one of the many ways it may be spelt, and its answer."""
    method = rng.choice(("GET", "POST"))
    query = tag(index) + "".join(rng.choices(_QUERY, k=rng.randrange(30)))
    body = b"" if method == "GET" else _body(rng, size)
    lines = [f"{_cased(rng, 'host')}: {rng.choice(('x', 'localhost:8000', '[::1]:80', '127.0.0.1'))}"]
    lines += [_header(rng) for _ in range(rng.randrange(6))]
    lines.append(_cased(rng, "authorization") + BEARER.removeprefix("Authorization"))
    framed = b""
    if method == "POST" and rng.random() < 0.5:
        lines.append(f"{_cased(rng, 'transfer-encoding')}:{rng.choice(('chunked', ' chunked', ' Chunked '))}")
        framed = chunked(rng, body)
    elif method == "POST":
        lines.append(f"{_cased(rng, 'content-length')}: {len(body)}")
        framed = body
    rng.shuffle(lines)
    path = rng.choice(("/v1/_echo", "/v1/_upload"))
    head = "\r\n".join([f"{method} {path}?{query} HTTP/1.1", *lines, "", ""])
    return head.encode("latin-1") + framed, echoes(method, query, body)


def chunked(rng: Random, body: bytes) -> bytes:
    """Frame a body in chunks, with what extensions and trailers RFC 9112, section 7.1, allows."""
    parts: list[bytes] = []
    most = max(1, len(body) // rng.choice((1, 3, 10)) // 4)
    while body:
        size = rng.randrange(1, most + 1)
        if len(parts) > 2000:
            size = len(body)
        piece, body = body[:size], body[size:]
        spelt = rng.choice(("%x", "%X", "000%x")) % len(piece) + rng.choice(
            ("", "", "", ";a", ";a=b", ';a="b c"')
        )
        parts.append(spelt.encode() + b"\r\n" + piece + b"\r\n")
    trailers = b"".join(b"X-T-%d: %d\r\n" % (number, number) for number in range(rng.choice((0, 0, 0, 1, 5))))
    return b"".join(parts) + b"0\r\n" + trailers + b"\r\n"


def chat(rng: Random, tokens: int, *, stream: bool) -> bytes:
    """Return a request for a chat, with whatever else may stand in its body."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": rng.choice(_TEXTS)}],
        "max_tokens": tokens,
    }
    if stream:
        body["stream"] = True
    elif rng.random() < 0.3:
        body["stream"] = rng.choice((False, None))
    if rng.random() < 0.5:
        schema = {"type": "object", "properties": {"stream": True}, "stream": True, "n": 3}
        body["tools"] = [{"type": "function", "function": {"name": "stream", "parameters": schema}}]
    if rng.random() < 0.5:
        body["metadata"] = {"stream": True, "model": rng.choice(_TEXTS)}
    keys = list(body)
    rng.shuffle(keys)
    text = json.dumps(
        {key: body[key] for key in keys},
        ensure_ascii=rng.random() < 0.5,
        indent=rng.choice((None, 1)),
        separators=rng.choice(((",", ":"), (" , ", " : "))),
    )
    extra = ("Content-Type: application/json", BEARER)
    return request("POST", "/v1/chat/completions", text.encode(), *extra)


def _echo(rng: Random, index: int) -> Input:
    data, answer = echo_request(rng, index)
    return Input("echo", cut(rng, data), answers=(answer,))


def _trickled(rng: Random, index: int) -> Input:
    data, answer = echo_request(rng, index, size=rng.randrange(20))
    size = 1 + len(data) // 100
    pieces = tuple(data[place : place + size] for place in range(0, len(data), size))
    return Input("echo in small pieces", pieces, answers=(answer,))


def _half_closed(rng: Random, index: int) -> Input:
    data, answer = echo_request(rng, index)
    if rng.random() < 0.5:
        stream, tokens = rng.random() < 0.5, rng.randrange(1, 50)
        data = chat(rng, tokens, stream=stream)
        answer = (streams if stream else says)(words(tokens))
    return Input("half-closed after its request", cut(rng, data), Ending.HALF_CLOSE, answers=(answer,))


def _pipelined(rng: Random, index: int) -> Input:
    some = [echo_request(rng, index, size=rng.randrange(300)) for _ in range(rng.randrange(2, 40))]
    others: Sequence[tuple[bytes, Check]] = (
        (request("GET", "/livez"), status(200)),
        (request("GET", "/v1/models", None, BEARER), status(200)),
        (request("GET", "/v1/nothing", None, BEARER), status(404)),
        (chat(rng, 3, stream=True), streams(words(3))),
        (chat(rng, 5, stream=False), says(words(5))),
    )
    some += [rng.choice(others) for _ in range(rng.randrange(5))]
    rng.shuffle(some)
    return Input("pipelined", cut(rng, b"".join(d for d, _ in some)), answers=tuple(a for _, a in some))


def _chat(rng: Random, index: int) -> Input:
    stream, tokens = rng.random() < 0.5, rng.randrange(1, 100)
    answer = (streams if stream else says)(words(tokens))
    return Input("chat", cut(rng, chat(rng, tokens, stream=stream)), answers=(answer,))


def _slow_reader(rng: Random, index: int) -> Input:
    tokens = rng.randrange(500, 2500)
    data = chat(rng, tokens, stream=True)
    return Input("stream read slowly", (data,), reading=Reading.SLOW, answers=(streams(words(tokens)),))


def _expecting(rng: Random, index: int) -> Input:
    body = rng.randbytes(rng.randrange(1, 5000))
    query = tag(index)
    head = request(
        "POST", f"/v1/_echo?{query}", None, BEARER, "Expect: 100-continue", f"Content-Length: {len(body)}"
    )
    return Input("Expect: 100-continue", (head, *cut(rng, body)), answers=(echoes("POST", query, body),))


def _upgrading(rng: Random, index: int) -> Input:
    body = rng.randbytes(rng.randrange(1, 500))
    query = tag(index)
    offer = (rng.choice(("Connection: Upgrade", "Connection: keep-alive, upgrade")),
             f"Upgrade: {rng.choice(('websocket', 'h2c', 'TLS/1.3', 'x'))}")  # fmt: skip
    data = request("POST", f"/v1/_echo?{query}", body, BEARER, *offer)
    return Input("upgrade that is not taken", cut(rng, data), answers=(echoes("POST", query, body),))


def _head(rng: Random, index: int) -> Input:
    path = rng.choice(("/livez", "/healthz", "/readyz", "/health", "/ping"))
    return Input("HEAD", cut(rng, request("HEAD", path)), answers=(status(200),), heads_only=True)


def _refused(rng: Random, index: int) -> Input:
    data, code = rng.choice(
        (
            (request("GET", f"/v1/nothing?{tag(index)}", None, BEARER), 404),
            (request("DELETE", "/v1/models", None, BEARER), 405),
            (request("GET", "/v1/models"), 401),
            (request("GET", "/v1/models", None, "Authorization: Bearer wrong-key-1"), 401),
            (post_json("/v1/chat/completions", {"messages": []}), 401),
            (post_json("/v1/chat/completions", {"messages": "x"}, BEARER), 400),
            (request("POST", "/v1/_upload", b"x" * (MAX_BODY_BYTES + 1), BEARER), 413),
            (request("GET", "/v1/models", None, BEARER, "X: " + "y" * 70_000), 431),
        )
    )
    return Input(f"refused: {code}", cut(rng, data), answers=(status(code),))


def _unfinished(rng: Random, index: int) -> Input:
    head = request("POST", f"/v1/_echo?{tag(index)}", None, BEARER, "Content-Length: 500")
    if rng.random() < 0.5:
        data = head[: rng.randrange(1, len(head) - 1)]
    else:
        data = head + rng.randbytes(rng.randrange(500))
    return Input("stops in the middle", cut(rng, data), answers=(status(408),))


PROPER: tuple[tuple[Callable[[Random, int], Input], int], ...] = (
    (_echo, 10),
    (_trickled, 2),
    (_half_closed, 4),
    (_pipelined, 4),
    (_chat, 6),
    (_slow_reader, 1),
    (_expecting, 2),
    (_upgrading, 2),
    (_head, 2),
    (_refused, 4),
    (_unfinished, 3),
)
"""Makers of inputs, and how often each is taken."""


def _body(rng: Random, size: int | None) -> bytes:
    most = rng.choices(_SIZES, _SIZE_WEIGHTS)[0] if size is None else size
    return rng.randbytes(most)


def _cased(rng: Random, name: str) -> str:
    return rng.choice((name, name.title(), name.upper()))


def _header(rng: Random) -> str:
    name = "x-" + "".join(rng.choices(_NAME, k=rng.randrange(1, 20)))
    return f"{name}:{rng.choice(('', ' ', '  '))}{''.join(rng.choices(_VALUE, k=rng.randrange(200)))}"
