"""Requests that mean harm, or that two parsers could read differently: refused whole, or made harmless.

Whatever is refused must not reach the engine with a single byte: what two programs understand differently is
how one client's bytes become another's request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.support.hostile import CHAT, Watched, watched_program
from tests.support.hostile_cases import AMBIGUOUS, CHUNKED, ECHO, INNER, OTHER_PROTOCOLS, ZERO
from tests.support.raw_http import Reply, request, wire


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One program for all: what an attack leaves behind, the next test would meet."""
    with watched_program(tmp_path_factory.mktemp("hostile"), {"tokens": 8}) as watched:
        yield watched


@pytest.fixture
def gateway(program: Watched) -> Iterator[Watched]:
    """The program, and what every test asserts at its end."""
    program.mark()
    yield program
    program.assert_calm()


@pytest.mark.parametrize("data", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_ambiguous(gateway: Watched, data: str) -> None:
    """What could be read in two ways is a 4xx and the end of the connection; the engine sees nothing."""
    with gateway.wire() as connection:
        reply = connection.ask(data.encode("latin-1"))
        assert 400 <= reply.status < 500 or reply.status in (501, 505)
        assert connection.rest() == b""
    assert gateway.reached() == b""


def test_length_and_chunked_in_pieces(gateway: Watched) -> None:
    """The same holds where the two framings come in packets of their own."""
    with gateway.wire() as connection:
        for line in AMBIGUOUS["length and chunked"].splitlines(keepends=True):
            connection.send(line.encode())
        assert connection.reply().status == 400
    assert b"smuggled" not in gateway.reached()


BROKEN_BODIES = {
    "chunk longer than it says": f"{ECHO}{CHUNKED}\r\n4\r\nabcdefgh\r\n{ZERO}{INNER}",
    "chunk without its line end": f"{ECHO}{CHUNKED}\r\n4\r\nabcd{ZERO}{INNER}",
    "text where a chunk should be": f"{ECHO}{CHUNKED}\r\n4\r\nabcd\r\n{INNER}",
    "line feed after a chunk": f"{ECHO}{CHUNKED}\r\n4\r\nabcd\n{ZERO}{INNER}",
    "line feed after the last chunk": f"{ECHO}{CHUNKED}\r\n4\r\nabcd\r\n0\n\n{INNER}",
    "trailer without a colon": f"{ECHO}{CHUNKED}\r\n4\r\nabcd\r\n0\r\n{INNER}",
    "folded trailer": f"{ECHO}{CHUNKED}\r\n4\r\nabcd\r\n0\r\nA: 1\r\n b\r\n\r\n{INNER}",
    "length in a trailer": f"{ECHO}{CHUNKED}\r\n4\r\nabcd\r\n0\r\nContent-Length: 9\r\n\r\n{INNER}",
}
"""Each goes wrong after a beginning that was in order, which may be under way to the engine already."""


@pytest.mark.parametrize("data", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
def test_broken_body(gateway: Watched, data: str) -> None:
    """A body that turns out to be no good ends the connection, and is never passed on as if it were whole."""
    with gateway.wire() as connection:
        said = connection.ask(data.encode("latin-1"))
        assert 400 <= said.status < 500
        assert connection.rest() == b""
    assert b"smuggled" not in gateway.reached()
    assert not gateway.reached().endswith(ZERO.encode())


@pytest.mark.parametrize("body", [ZERO, f"4\r\nabcd\r\n{ZERO}"])
def test_chunked_in_http_1_0(gateway: Watched, body: str) -> None:
    """HTTP/1.0 has no chunks: refused, or read and the connection closed; nothing stands behind it."""
    with gateway.wire() as connection:
        head = f"POST /v1/_echo HTTP/1.0\r\nHost: x\r\n{CHUNKED}Connection: keep-alive\r\n\r\n"
        assert connection.ask((head + body + INNER).encode()).status in (200, 400)
        assert connection.rest() == b""
    assert b"smuggled" not in gateway.reached()


UNUSUAL = {
    "absolute form": f"POST http://evil.example/v1/_echo?q HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n4\r\nabcd\r\n{ZERO}",
    "empty lines before": "\r\n\r\nPOST /v1/_echo?q HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
    "upper case": "POST /v1/_echo?q HTTP/1.1\r\nHOST: x\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
    "white space": "POST /v1/_echo?q HTTP/1.1\r\nHost:\t x \t\r\nContent-Length: \t 4 \r\n\r\nabcd",
    "leading zeros": "POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\nContent-Length: 0004\r\n\r\nabcd",
    "chunk extensions": f'POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n2;a=b\r\nab\r\n2;c="d"\r\ncd\r\n{ZERO}',
    "zeros before a chunk size": f"POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n0004\r\nabcd\r\n{ZERO}",
    "trailers": (
        f"POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\n{CHUNKED}\r\n4\r\nabcd\r\n"
        "0\r\nX-Trailer: 1\r\nAuthorization: Bearer evil\r\nHost: evil\r\n\r\n"
    ),
    "length named as a hop": (
        "POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\nConnection: content-length, host, x-request-id\r\n"
        "Content-Length: 4\r\n\r\nabcd"
    ),
    "coding named as a hop": (
        f"POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\nConnection: transfer-encoding\r\n{CHUNKED}\r\n"
        f"4\r\nabcd\r\n{ZERO}"
    ),
    "hops": (
        "POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 9\r\n"
        "Proxy-Connection: x\r\nTE: trailers\r\nTrailer: X-Trailer\r\nProxy-Authorization: x\r\n"
        "Content-Length: 4\r\n\r\nabcd"
    ),
    "upgrade that is none": (
        "POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\nConnection: upgrade, http2-settings\r\nUpgrade: h2c\r\n"
        "HTTP2-Settings: AAMAAABk\r\nContent-Length: 4\r\n\r\nabcd"
    ),
    "expectation": (
        "POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd"
    ),
    "names with underscores": (
        "POST /v1/_echo?q HTTP/1.1\r\nHost: x\r\nContent_Length: 9\r\nTransfer_Encoding: chunked\r\n"
        "Content-Length: 4\r\n\r\nabcd"
    ),
    "a fragment": "POST /v1/_echo?q#/metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
    "HTTP/1.0": "POST /v1/_echo?q HTTP/1.0\r\nContent-Length: 4\r\n\r\nabcd",
}
"""Legal, if seldom seen: each is one request with the body `abcd`."""


@pytest.mark.parametrize("data", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_unusual(gateway: Watched, data: str) -> None:
    """What is legal is answered, and reaches the engine in one plain spelling."""
    with gateway.wire() as connection:
        reply = connection.ask(data.encode("latin-1"))
        if reply.status == 100:
            reply = connection.reply()
    assert (reply.status, reply.json()["body_bytes"]) == (200, 4), reply
    head, _, _ = gateway.reached().partition(b"\r\n\r\n")
    line, *headers = head.decode("latin-1").split("\r\n")
    assert line == "POST /v1/_echo?q HTTP/1.1"
    names = [header.partition(":")[0].lower() for header in headers]
    assert sorted(names) == sorted(set(names))
    assert ("content-length" in names) != ("transfer-encoding" in names)
    assert {"host", "x-request-id"} <= set(names)
    hops = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "proxy-authorization"}
    assert not {*hops, "upgrade", "http2-settings", "x-mine", "x-trailer", "expect"} & set(names)
    assert "evil" not in head.decode("latin-1")


@pytest.mark.parametrize("data", OTHER_PROTOCOLS.values(), ids=OTHER_PROTOCOLS.keys())
def test_other_protocol(gateway: Watched, data: bytes) -> None:
    """Who speaks something else is sent away."""
    with gateway.wire() as connection:
        connection.send(data)
        said = connection.rest()
    assert said == b"" or re.match(rb"HTTP/1\.1 (4\d\d|501|505) ", said), said
    assert gateway.reached() == b""


FORBIDDEN_TARGETS = (
    "/metrics/../v1/../pause",
    "/v1/../metrics",
    "/v1/%2e%2e/metrics",
    "/v1/..%2fmetrics",
    "/v1/chat/../../load",
    "/v1/./models",
    "/v1//models",
    "//v1/models",
    "///v1/models",
    "/v1/models/",
    "/v1/models//",
    "/v1/models/..",
    "/v1/models/.",
    "/v1/models;a=b",
    "/v1/models%00",
    "/v1/models%0d%0aX-Evil:%201",
    "/v1/models%20",
    "/v1/models%2f",
    "/v1/models\\",
    "/v1\\models",
    "/v1%2fmodels",
    "/%76%31/models",
    "/v1/%6dodels",
    "/v1/chat%2fcompletions",
    "/V1/models",
    "/v1/Models",
    "/v1",
    "/v1/",
    "/v1/responses/",
    "/v1/responses/a%2f..%2f..%2f..%2fmetrics",
    "/v1/responses/..",
    "/v1/responses/%2e%2e",
    "/v1/responses/../models",
    "/v1/responses/a/../../models",
    "/v1/responses/%00",
    "/v1/responses/a%0ab",
    "/v1/load_lora_adapter",
    "/v1/nothing",
    "/invocations",
    "/inference/v1/generate",
    "/scale_elastic_ep",
    "/pause",
    "/load",
    "/server_info",
    "/collective_rpc",
    "/start_profile",
    "/reset_prefix_cache",
    "/sleep",
    "/docs",
    "/openapi.json/../v1/models",
    "/\xc3\xa9".encode().decode("latin-1"),
    "/v1/models%",
    "/v1/models%zz",
    "/v1/models%c0%ae",
    "http://engine/metrics",
    "*",
    "?",
    "#",
)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("target", FORBIDDEN_TARGETS)
def test_target_that_is_no_route(gateway: Watched, target: str, method: str) -> None:
    """A path that is not, letter by letter, one we know is a 4xx of ours; the engine sees nothing."""
    body = b"{}" if method == "POST" else None
    reply = gateway.ask(request(method, target, body))
    if target.startswith("http://engine"):
        # The same as /metrics, which is ours, and asks the engine for its own.
        assert reply.status in (200, 400, 404, 405)
        assert b"http://" not in gateway.reached()
    else:
        assert reply.status in (400, 404, 405), reply
        assert gateway.reached() == b""
    assert b"X-Evil" not in b"".join(name.encode() for name, _ in reply.headers)


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "M-SEARCH", "DELETE", "PATCH", "PUT"])
@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/models", "/livez", "engine:80", "*"])
def test_method_that_nobody_has(gateway: Watched, method: str, target: str) -> None:
    """A method that a route does not have is a 4xx of ours."""
    reply = gateway.ask(request(method, target))
    assert reply.status in (400, 404, 405, 501), reply
    assert gateway.reached() == b""


BAD_BODIES = {
    "truncated": b'{"model": "fake", "messages": [{"role": "us',
    "invalid UTF-8": b'{"model": "fake", "messages": [{"role": "user", "content": "\xff\xfe\xc0"}]}',
    "lone surrogate": b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}',
    "UTF-16": json.dumps(CHAT).encode("utf-16"),
    "mark before": b"\xef\xbb\xbf" + json.dumps(CHAT).encode(),
    "not a number": b'{"model": "fake", "messages": [], "temperature": NaN}',
    "deep": b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "long number": b'{"model": "fake", "seed": ' + b"9" * 10_000 + b"}",
    "two values": b"{}{}",
    "empty": b"",
    "NULs": bytes(1000),
    "a key twice": b'{"model": "fake", "model": "other", "messages": [{"role": "user", "content": "x"}]}',
}


@pytest.mark.parametrize(
    "encoding", ["", "Content-Encoding: gzip", "Content-Type: application/json; charset=utf-16"]
)
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_body(gateway: Watched, body: bytes, encoding: str) -> None:
    """A body that is no good is answered as the engine answers it, word by word."""
    headers = ["Content-Type: application/json", *filter(None, [encoding])]
    data = request("POST", "/v1/chat/completions", body, *headers)
    reply = gateway.ask(data)
    straight = straight_from_engine(gateway, data)
    assert reply.status == straight.status
    assert reply.body == straight.body or (reply.status == 200 and straight.status == 200)


def straight_from_engine(gateway: Watched, data: bytes) -> Reply:
    """Ask the engine itself."""
    with wire(gateway.engine.with_suffix(".tapped")) as connection:
        return connection.ask(data)
