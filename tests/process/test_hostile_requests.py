"""Requests that mean harm, or that two parsers could read differently: refused whole, or made harmless.

Whatever is refused must not reach the engine with a single byte: what two programs understand differently is
how one client's bytes become another's request.
"""

from __future__ import annotations

import re
import socket

from tests.support.hostile_cases import AMBIGUOUS, CHUNKED, ECHO, INNER, OTHER_PROTOCOLS, UNUSUAL, ZERO
from tests.support.program import until
from tests.support.raw_http import request
from tests.support.watched import Watched


def test_ambiguous(gateway: Watched) -> None:
    """What could be read in two ways is a 4xx and the end of the connection; the engine sees nothing."""
    for name, data in AMBIGUOUS.items():
        with gateway.wire() as connection:
            reply = connection.ask(data.encode("latin-1"))
            assert 400 <= reply.status < 500 or reply.status in (501, 505), name
            assert connection.rest() == b"", name
        assert gateway.reached() == b"", name


BROKEN_BODIES = {
    "chunk longer than it says": f"4\r\nabcdefgh\r\n{ZERO}",
    "chunk without its line end": f"4\r\nabcd{ZERO}",
    "text where a chunk should be": "4\r\nabcd\r\n",
    "line feed after a chunk": f"4\r\nabcd\n{ZERO}",
    "line feed after the last chunk": "4\r\nabcd\r\n0\n\n",
    "trailer without a colon": "4\r\nabcd\r\n0\r\n",
    "folded trailer": "4\r\nabcd\r\n0\r\nA: 1\r\n b\r\n\r\n",
    "length in a trailer": "4\r\nabcd\r\n0\r\nContent-Length: 9\r\n\r\n",
}


def test_broken_bodies(gateway: Watched) -> None:
    """A body that goes wrong after a good beginning ends the connection, and is never passed on as if it were whole."""
    for name, body in BROKEN_BODIES.items():
        with gateway.wire() as connection:
            said = connection.ask(f"{ECHO}{CHUNKED}\r\n{body}{INNER}".encode("latin-1"))
            assert 400 <= said.status < 500, name
            assert connection.rest() == b"", name
        assert b"smuggled" not in gateway.reached(), name
        assert not gateway.reached().endswith(ZERO.encode()), name


def test_unusual(gateway: Watched) -> None:
    """What is legal is answered, and reaches the engine in one plain spelling."""
    for name, data in UNUSUAL.items():
        gateway.mark()
        with gateway.wire() as connection:
            reply = connection.ask(data.encode("latin-1"))
            if reply.status == 100:
                reply = connection.reply()
        assert (reply.status, reply.json()["body_bytes"]) == (200, 4), name
        head, _, _ = gateway.reached().partition(b"\r\n\r\n")
        line, *headers = head.decode("latin-1").split("\r\n")
        assert line == "POST /v1/_echo?q HTTP/1.1", name
        names = [header.partition(":")[0].lower() for header in headers]
        assert sorted(names) == sorted(set(names)), name
        assert ("content-length" in names) != ("transfer-encoding" in names), name
        assert {"host", "x-request-id"} <= set(names), name
        hops = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "proxy-authorization"}
        assert not {*hops, "upgrade", "http2-settings", "x-mine", "x-trailer", "expect"} & set(names), name
        assert "evil" not in head.decode("latin-1"), name


def test_other_protocols(gateway: Watched) -> None:
    """Clients of another protocol are sent away."""
    for name, data in OTHER_PROTOCOLS.items():
        with gateway.wire() as connection:
            connection.send(data)
            said = connection.rest()
        assert said == b"" or re.match(rb"HTTP/1\.1 (4\d\d|501|505) ", said), (name, said)
    assert gateway.reached() == b""


FORBIDDEN_TARGETS = (
    "/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/..%2fmetrics", "/v1/chat/../../load", "/v1//models",
    "//v1/models", "/v1/models/", "/v1/models;a=b", "/v1/models%00", "/v1/models%0d%0aX-Evil:%201", "/v1\\models",
    "/%76%31/models", "/V1/models", "/v1", "/v1/responses/a%2f..%2f..%2f..%2fmetrics", "/v1/load_lora_adapter",
    "/invocations", "/pause", "/sleep", "/docs/../v1/models", "/v1/models%zz", "http://engine/pause", "*", "?", "#",
)  # fmt: skip


def test_targets_that_are_no_routes(gateway: Watched) -> None:
    """A path that is not, letter by letter, one we know is a 4xx of ours; the engine sees nothing."""
    for target in FORBIDDEN_TARGETS:
        for method, body in (("GET", None), ("POST", b"{}")):
            reply = gateway.ask(request(method, target, body))
            assert reply.status in (400, 404, 405), (method, target, reply)
    for method in ("TRACE", "CONNECT", "PROPFIND", "M-SEARCH", "DELETE", "PATCH", "PUT"):
        for target in ("/v1/chat/completions", "/v1/models", "/livez", "engine:80", "*"):
            reply = gateway.ask(request(method, target))
            assert reply.status in (400, 404, 405, 501), (method, target, reply)
    assert gateway.reached() == b""


def test_our_errors_have_one_shape(gateway: Watched) -> None:
    """What we refuse ourselves is refused in the one error body, with an id, and says what is allowed."""
    for data, status in (
        (request("GET", "/v1/nothing"), 404),
        (request("DELETE", "/v1/models"), 405),
        (request("POST", "/livez", b""), 405),
        (request("POST", "/v1/_upload", None, "Content-Length: 9999999999"), 413),
    ):
        reply = gateway.ask(data)
        assert (reply.status, reply.json()["error"]["code"]) == (status, status)
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert reply.header("content-type") == "application/json"
        assert reply.header("x-request-id")
        assert bool(reply.header("allow")) == (status == 405)


BAD_BODIES = (
    b'{"model": "fake", "messages": [{"role": "us',
    b'{"model": "fake", "messages": [{"role": "user", "content": "\xff\xfe\xc0"}]}',
    b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b"",
    bytes(1000),
)


def test_bad_bodies(gateway: Watched) -> None:
    """A body that is no good is answered as the engine answers it, word by word."""
    for body in BAD_BODIES:
        data = request("POST", "/v1/chat/completions", body, "Content-Type: application/json")
        reply, straight = gateway.ask(data), gateway.straight(data)
        assert (reply.status, reply.body) == (straight.status, straight.body)
        assert reply.status == 400


def test_log_takes_no_orders(gateway: Watched) -> None:
    """No client can write a line of its own, or a terminal's control codes, into the log."""
    evil = "%0a12:00:00%20CRITICAL%20forged%1b[2J%0d%00"
    for target in (f"/v1/{evil}", f"/{evil}", f"/v1/_echo?{evil}", f"/v1/responses/{evil}"):
        gateway.ask(request("GET", target))
    gateway.ask(request("GET", "/v1/_echo", None, "X-Request-Id: a\x1b[2J", "User-Agent: b\x1b[31m"))
    gateway.ask(request("GET", "/v1/_echo", None, "Authorization: Bearer c\x1b[2J"))
    gateway.ask(request("GET", "/v1/nothing-more"))
    until(lambda: "/v1/nothing-more" in gateway.logged(), "the last request's line")
    log = gateway.logged()
    assert "forged" in log
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", log)
    assert not [line for line in log.splitlines() if line.startswith("12:00:00 CRITICAL")]


def test_request_id_takes_no_orders(gateway: Watched) -> None:
    """A usable id is kept and reaches the engine; anything else is replaced, and writes no header."""
    for given, is_kept in (("my-id-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("a\x85X-Evil: 1", False)):  # fmt: skip
        reply = gateway.ask(request("GET", "/v1/_echo", None, f"X-Request-Id: {given}"))
        identity = reply.header("x-request-id")
        assert (identity == given) is is_kept
        assert is_kept or re.fullmatch("[0-9a-f]{32}", identity or "")
        assert ["x-request-id", identity] in reply.json()["headers"]
        assert [name for name, _ in reply.headers].count("x-evil") == 0


def test_nothing_is_kept(gateway: Watched) -> None:
    """A thousand attacks later the gateway holds no more memory and no more files than after the first ones."""

    def attack(rounds: int) -> None:
        for _ in range(rounds):
            for data in (*(text.encode("latin-1") for text in AMBIGUOUS.values()), *OTHER_PROTOCOLS.values()):
                with gateway.wire() as connection:
                    connection.send(data)
                    connection.socket.shutdown(socket.SHUT_WR)
                    connection.rest()

    attack(4)
    memory, files = gateway.rss(), gateway.fds()
    attack(14)
    assert gateway.rss() - memory < 2e6
    until(lambda: gateway.fds() <= files + 1, "the close of all")
    assert gateway.reached() == b""
