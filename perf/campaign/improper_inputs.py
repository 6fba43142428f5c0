"""Inputs that are broken, cut off or abusive: any documented refusal will do, but no harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from random import Random

from perf.campaign.inputs import BEARER, Ending, Input, Reading, tag
from perf.campaign.proper_inputs import PROPER, chat, chunked, cut, echo_request
from tests.support.hostile_cases import AMBIGUOUS, OTHER_PROTOCOLS
from tests.support.raw_http import chunk, request

_BITS = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\x80",
    b"\xff",
    b"\x0b",
    b"0",
    b"HTTP/1.1",
)
_LINES = (
    "Host: y", "Host:", "Host: a b", "Host: a/b", "Host: a@b", "Host: \x80", "Connection: close", "Connection: \x00",
    "Connection: Content-Length", "Connection: Authorization, Transfer-Encoding", "Keep-Alive: timeout=0", "TE: trailers",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, chunked",
    "Content-Length: 0", "Content-Length: 5", "Content-Length: 99999999999999999999", "Content-Length: 5, 5",
    "Expect: 100-continue", "Expect: x", "Expect: 100-continue, x", "Upgrade: h2c", "Upgrade: websocket",
    "HTTP2-Settings: AAMAAABkAAQAAP__", "Connection: Upgrade, HTTP2-Settings", "X-Forwarded-For: 1.2.3.4, ::1, \x80",
    "X-Forwarded-Proto: gopher", "X-Request-Id: \x1b[2J", "X-Request-Id: " + "x" * 5000, "Range: bytes=0-,-1", " folded", "\tfolded",
    "Cookie: " + "a=b; " * 2000, "X: " + "y" * 66_000, "Accept-Encoding: gzip;q=0, *;q=9", "Content-Encoding: gzip",
    "Content-Type: multipart/form-data", "Content-Type: application/json; charset=utf-16", "traceparent: 00-zz-zz-01", ": x", "x",
)  # fmt: skip
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "BREW", "get", "")
_TARGETS = (
    "/", "*", "//", "/v1", "/v1/", "/v1//models", "/v1/./models", "/v1/../v1/models", "/v1/%6dodels", "/v1/models/", "/v1/models%00",
    "/v1/models#x", "/v1/models?" + "a=b&" * 5000, "http://x/v1/models", "https://y:1/v1/models", "x:80", "/ui/../metrics", "/ui/%2e%2e/x",
    "/ui/state", "/metrics", "/version", "/openapi.json", "/healthz?x", "/v1/responses/x", "/v1/responses/" + "x" * 200, "/\xff", "/ ",
)  # fmt: skip
_VERSIONS = (
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/0.9",
    "HTTP/11",
    "",
    "HTTP/1.1 x",
)


def mutated(rng: Random, data: bytes, times: int) -> bytes:
    """Change some bytes: another one, one more, one less, some twice, some swapped, a bit that matters put in."""
    some = bytearray(data)
    for _ in range(times):
        place = rng.randrange(len(some) + 1)
        size = rng.choice((1, 1, 2, 20))
        match rng.randrange(5):
            case 0 if place < len(some):
                some[place] = rng.randrange(256)
            case 1:
                some[place:place] = rng.choice(_BITS)
            case 2:
                del some[place : place + size]
            case 3:
                some[place:place] = some[place : place + size]
            case _:
                some[place : place + 2] = some[place : place + 2][::-1]
    return bytes(some)


def _ending(rng: Random) -> Ending:
    return rng.choice((Ending.WAIT, Ending.HALF_CLOSE, Ending.HALF_CLOSE))


def _bytes_changed(rng: Random, index: int) -> Input:
    data = b"".join(echo_request(rng, index, size=rng.randrange(300))[0] for _ in range(rng.randrange(1, 4)))
    return Input("bytes changed", cut(rng, mutated(rng, data, rng.randrange(1, 6))), _ending(rng))


def _odd_head(rng: Random, index: int) -> Input:
    target = rng.choice((f"/v1/_echo?{tag(index)}", rng.choice(_TARGETS)))
    start = f"{rng.choice(_METHODS)} {target} {rng.choice(_VERSIONS)}"
    lines = (
        [rng.choice(_LINES) for _ in range(rng.randrange(1, 5))] + rng.choice(([], ["Host: x"])) + [BEARER]
    )
    rng.shuffle(lines)
    data = "\r\n".join([start, *lines, "", ""]).encode("latin-1") + rng.choice(
        (b"", b"abcde", b"5\r\nabcde\r\n0\r\n\r\n")
    )
    return Input("odd head", cut(rng, data), _ending(rng))


def _many_headers(rng: Random, index: int) -> Input:
    count, size = rng.choice(((5000, 1), (1000, 50), (300, 300), (20, 10_000)))
    lines = [f"X-{number}: {'y' * size}" for number in range(count)]
    return Input(
        "many headers",
        cut(rng, request("GET", f"/v1/_echo?{tag(index)}", None, BEARER, *lines)),
        _ending(rng),
    )


def _broken_chunks(rng: Random, index: int) -> Input:
    key = rng.choice(((BEARER,), ()))
    head = request("POST", f"/v1/_echo?{tag(index)}", None, "Transfer-Encoding: chunked", *key)
    body = rng.choice(
        (
            mutated(rng, chunked(rng, rng.randbytes(rng.randrange(300))), rng.randrange(1, 4)),
            b"5;" + b"x" * rng.choice((100, 20_000, 200_000)) + b"\r\nabcde\r\n0\r\n\r\n",
            b"".join(b"1;" + b"e" * 50 + b"\r\nx\r\n" for _ in range(rng.choice((10, 3000)))) + b"0\r\n\r\n",
            b"0" * rng.choice((10, 100_000)) + b"5\r\nabcde\r\n0\r\n\r\n",
            b"%x\r\n" % rng.choice((2**31, 2**32, 2**63, 2**64 - 1, 2**64)) + b"x" * 1000,
        )
    )
    return Input("broken chunks", cut(rng, head + body), _ending(rng))


def _trailers(rng: Random, index: int) -> Input:
    path, key = rng.choice((("/v1/_echo", BEARER), ("/v1/_echo", "X: y"), ("/v1/nothing", BEARER)))
    head = request("POST", f"{path}?{tag(index)}", None, "Transfer-Encoding: chunked", key)
    count, size = rng.choice(((3, 10), (1000, 10), (300, 1000), (3, 100_000), (20_000, 1)))
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"y" * size) for number in range(count))
    data = head + chunk(b"abcd") + b"0\r\n" + lines + rng.choice((b"\r\n", b"", b"Content-Length: 5\r\n\r\n"))
    return Input("trailers", cut(rng, data), _ending(rng))


def _wrong_length(rng: Random, index: int) -> Input:
    body = rng.randbytes(rng.randrange(100))
    said = rng.choice((len(body) + 1, max(0, len(body) - 1), 10**6, -1, 10**30))
    head = request("POST", f"/v1/_echo?{tag(index)}", None, f"Content-Length: {said}", BEARER)
    return Input("wrong length", cut(rng, head + body), _ending(rng))


def _no_http(rng: Random, index: int) -> Input:
    data = rng.choice(
        (
            rng.choice(list(OTHER_PROTOCOLS.values())),
            rng.choice(list(AMBIGUOUS.values())).encode("latin-1"),
            rng.randbytes(rng.randrange(1, 3000)),
            b"\r\n" * rng.randrange(1, 40_000),
        )
    )
    return Input("no HTTP", cut(rng, data), _ending(rng))


def _odd_json(rng: Random, index: int) -> Input:
    head, _, body = chat(rng, rng.randrange(1, 20), stream=rng.random() < 0.5).partition(b"\r\n\r\n")
    odd = rng.choice(
        (
            mutated(rng, body, rng.randrange(1, 5)),
            b"[" * rng.choice((10, 50_000)),
            b'{"a":' * rng.choice((10, 30_000)),
            json.dumps({"messages": [], "stream": rng.choice(("true", 1, {}, [])), "n": 10**30}).encode(),
            b'{"stream":true,"stream":false,"stream":true,"messages":[]}',
            b'\xef\xbb\xbf{"messages":[]}',
            b'{"str\\u0065am":true,"messages":[{"role":"user","content":"\\ud800"}],"max_tokens":3}',
            rng.randbytes(200),
            b"NaN",
        )
    )
    lines = [
        line for line in head.decode().split("\r\n")[1:] if not line.startswith(("Content-Length", "Host"))
    ]
    route = rng.choice(
        ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/tokenize")
    )
    return Input("odd JSON", cut(rng, request("POST", route, odd, *lines)), _ending(rng))


def _cut_short(rng: Random, index: int) -> Input:
    whole = _proper(rng, index)
    data = b"".join(whole.pieces)
    data = data[: rng.randrange(len(data))]
    ending = rng.choice((Ending.HALF_CLOSE, Ending.LEAVE))
    return Input("cut short", cut(rng, data), ending, heads_only=whole.heads_only)


def _left(rng: Random, index: int) -> Input:
    if rng.random() < 0.5:
        data = chat(rng, 5000, stream=rng.random() < 0.7)
        return Input("left in its answer", (data,), Ending.LEAVE, leave_after=rng.randrange(20_000))
    whole = _proper(rng, index)
    return replace(
        whole, kind="left in its answer", ending=Ending.LEAVE, answers=None, leave_after=rng.randrange(400)
    )


def _not_read(rng: Random, index: int) -> Input:
    data = chat(rng, 6000, stream=rng.random() < 0.7)
    ending = rng.choice((Ending.WAIT, Ending.LEAVE, Ending.HALF_CLOSE))
    return Input("not read", (data,), ending, Reading.NONE)


def _after_refusal(rng: Random, index: int) -> Input:
    head = rng.choice(
        (
            request("POST", f"/v1/nothing?{tag(index)}", None, BEARER, "Content-Length: 100000000"),
            request("POST", "/v1/_upload", None, "Content-Length: 200000"),
            request("POST", "/v1/_upload", None, BEARER, "Content-Length: 100000000"),
            request("DELETE", "/v1/models", None, BEARER, "Transfer-Encoding: chunked"),
            b"nonsense\r\n\r\n",
        )
    )
    after = rng.choice((rng.randbytes(3000), b"x" * 2_000_000, b"1\r\nx\r\n" * 20_000, b"\r\n" * 100_000))
    return Input("bytes after a refusal", (head, *cut(rng, after)), _ending(rng))


def _junk_behind(rng: Random, index: int) -> Input:
    good = [echo_request(rng, index, size=10)[0] for _ in range(rng.randrange(1, 6))]
    junk = rng.choice(
        (rng.randbytes(50), b"\0" * 3000, rng.choice(list(AMBIGUOUS.values())).encode("latin-1"))
    )
    return Input("junk behind requests", cut(rng, b"".join(good) + junk), _ending(rng))


def _pipelined_flood(rng: Random, index: int) -> Input:
    one = rng.choice((request("GET", "/livez"), request("GET", f"/v1/_echo?{tag(index)}", None, BEARER)))
    data = rng.choice((b"", chat(rng, 3000, stream=True))) + one * rng.choice((200, 200, 1500))
    reading, ending = rng.choice(((Reading.ALL, Ending.HALF_CLOSE), (Reading.NONE, Ending.LEAVE)))
    return Input("pipelined without end", cut(rng, data), ending, reading)


IMPROPER: tuple[tuple[Callable[[Random, int], Input], int], ...] = (
    (_bytes_changed, 10),
    (_odd_head, 8),
    (_many_headers, 2),
    (_broken_chunks, 6),
    (_trailers, 3),
    (_wrong_length, 3),
    (_no_http, 6),
    (_odd_json, 6),
    (_cut_short, 5),
    (_left, 4),
    (_not_read, 1),
    (_after_refusal, 3),
    (_junk_behind, 3),
    (_pipelined_flood, 1),
)
"""Makers of inputs, and how often each is taken."""


def client_input(seed: int, index: int) -> Input:
    """Return the input of this index: the same for the same seed, whatever other inputs there are."""
    rng = Random(f"{seed}/client/{index}")
    return _proper(rng, index) if rng.random() < 0.4 else _taken(rng, IMPROPER)(rng, index)


def _proper(rng: Random, index: int) -> Input:
    return _taken(rng, PROPER)(rng, index)


def _taken(
    rng: Random, makers: tuple[tuple[Callable[[Random, int], Input], int], ...]
) -> Callable[[Random, int], Input]:
    return rng.choices([maker for maker, _ in makers], [weight for _, weight in makers])[0]
