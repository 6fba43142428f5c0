"""An engine that speaks badly: its client is told so, and nobody else gets what was left over."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.support.raw_http import Reply, chunk, request
from tests.support.watched import Watched

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
EVENTS = CHUNKED + b"Content-Type: text/event-stream\r\n\r\n"
Handler = Callable[[socket.socket], None]


@contextmanager
def engine_that(gateway: Watched, handle: Handler) -> Iterator[None]:
    """Stand in for the engine: each connection's request goes to `handle`; health checks are answered."""
    path = gateway.engine
    aside = path.with_suffix(".aside")
    path.rename(aside)
    gateway.hang_up()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    connections: list[socket.socket] = []
    accepting = threading.Thread(target=_accept, args=(listener, connections, handle))
    accepting.start()
    try:
        yield
    finally:
        for end in (listener, *connections):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        accepting.join()
        listener.close()
        aside.replace(path)


def _accept(listener: socket.socket, connections: list[socket.socket], handle: Handler) -> None:
    serving = []
    with suppress(OSError):
        while True:
            connections.append(listener.accept()[0])
            serving.append(threading.Thread(target=_serve, args=(connections[-1], handle)))
            serving[-1].start()
    for thread in serving:
        thread.join()


def _serve(connection: socket.socket, handle: Handler) -> None:
    with connection, suppress(OSError):
        connection.settimeout(10)
        while head := _head(connection):
            if head.startswith(b"GET /health "):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                handle(connection)


def _head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (data := connection.recv(65536)):
        head += data
    return head


def says(answer: bytes, *, close: bool = True) -> Handler:
    """Answer with these bytes, and close then."""

    def handle(connection: socket.socket) -> None:
        connection.sendall(answer)
        if close:
            connection.shutdown(socket.SHUT_RDWR)

    return handle


def ask(gateway: Watched, handle: Handler, data: bytes = b"") -> Reply:
    """Ask the gateway with such an engine behind it."""
    with engine_that(gateway, handle):
        return gateway.ask(data or request("GET", "/v1/_echo"))


NO_ANSWERS = {
    "nothing": b"",
    "no HTTP": b"hello\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
    "length that is no number": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
    "NUL in a header": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok",
    "carriage return in a header": b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok",
    "status that is none": b"HTTP/1.1 999 What\r\nContent-Length: 2\r\n\r\nok",
    "status of two digits": b"HTTP/1.1 20 What\r\nContent-Length: 2\r\n\r\nok",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
    "interim answers only": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}


def test_no_answer(gateway: Watched) -> None:
    """What is no whole HTTP answer is a 502 in the one error shape."""
    for name, answer in NO_ANSWERS.items():
        reply = ask(gateway, says(answer))
        assert (reply.status, reply.json()["error"]["type"]) == (502, "upstream_error"), name


CUT = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
    CHUNKED + b"\r\n" + chunk(b"ok"),
    CHUNKED + b"\r\n" + chunk(b"ok") + b"zz\r\n",
    CHUNKED + b"\r\n5\r\nok",
)


def test_cut_answer(gateway: Watched) -> None:
    """A body that breaks off is never ended as if it were whole; a 502 is as good if nothing was sent yet."""
    for answer in CUT:
        with engine_that(gateway, says(answer)), gateway.wire() as connection:
            connection.send(request("GET", "/v1/_echo", None, "Connection: close"))
            said = connection.rest()
        if not said.startswith(b"HTTP/1.1 502 "):
            assert not said.endswith(b"0\r\n\r\n"), answer
            assert len(said.partition(b"\r\n\r\n")[2]) < 50, answer


def test_cut_events(gateway: Watched) -> None:
    """A stream that breaks off ends in one whole error event, wherever it was cut."""
    for broken in (b"", chunk(b"data: 2"), chunk(b"data: 2\n"), b"zz\r\n"):
        reply = ask(gateway, says(EVENTS + chunk(b"data: 1\n\n") + broken))
        *before, last = reply.body.removesuffix(b"\n\n").split(b"\n\n")
        assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "upstream_error"
        assert before[0] == b"data: 1"


GZIP = gzip.compress(b"x", mtime=0)
WHOLE = {
    "until the close": (b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\nuntil the close", b"until the close"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
    "after interim ones": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "unchanged": (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b""),
    "chunks with extensions": (CHUNKED + b"\r\n2;a=b\r\nok\r\n0\r\n\r\n", b"ok"),
    "trailers": (CHUNKED + b"\r\n2\r\nok\r\n0\r\nX-Trailer: 1\r\n\r\n", b"ok"),
    "many tiny chunks": (CHUNKED + b"\r\n" + chunk(b"x") * 10_000 + b"0\r\n\r\n", b"x" * 10_000),
    "a large one": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000,
        b"x" * 3_000_000,
    ),
    "a large stream": (EVENTS + chunk(b"data: x\n\n" * 100_000) + b"0\r\n\r\n", b"data: x\n\n" * 100_000),
    "compressed": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(GZIP), GZIP),
        GZIP,
    ),
    "bytes beyond ASCII in a header": (b"HTTP/1.1 200 OK\r\nX: \xe9\r\nContent-Length: 2\r\n\r\nok", b"ok"),
}


def test_whole_answer(gateway: Watched) -> None:
    """Every legal way to answer arrives whole, and the connection is fit for the next request."""
    for name, (answer, body) in WHOLE.items():
        with engine_that(gateway, says(answer)), gateway.wire() as connection:
            for _ in range(2):
                reply = connection.ask(request("GET", "/v1/_echo"))
                assert reply.status == int(answer.rpartition(b"HTTP/1.")[2][2:5]), name
                assert reply.body == body, name
                assert reply.header("X-Trailer") is None, name


def test_headers_of_the_same_name(gateway: Watched) -> None:
    """Repeated headers stay two, in their order; those of one hop are dropped."""
    answer = OK.replace(b"\r\n", b"\r\nX-A: 1\r\nX-B: 0\r\nX-A: 2\r\nConnection: X-B\r\nKeep-Alive: 5\r\n", 1)
    reply = ask(gateway, says(answer))
    assert [value for name, value in reply.headers if name.lower() == "x-a"] == ["1", "2"]
    assert (reply.header("X-B"), reply.header("Keep-Alive")) == (None, None)


RESTS = (OK.replace(b"ok", b"no"), b"\r\n", b"HTTP/1.1 ", b"garbage", chunk(b"x"))


@pytest.mark.parametrize(
    "first", [OK, CHUNKED + b"\r\n" + chunk(b"ok") + b"0\r\n\r\n"], ids=["length", "chunked"]
)
def test_rest_is_nobodys(gateway: Watched, first: bytes) -> None:
    """Bytes behind an answer are neither part of it nor of the next client's."""
    for rest in RESTS:
        with engine_that(gateway, says(first + rest, close=False)):
            for _ in range(4):
                reply = gateway.ask(request("GET", "/v1/_echo"))
                assert (reply.status, reply.body) == (200, b"ok"), rest


def test_pooled_connections_that_go_wrong(gateway: Watched) -> None:
    """An answer that nobody has asked for is not the next client's, and a connection closed while idle costs no request."""
    idle = threading.Semaphore(0)
    wrong = threading.Semaphore(0)
    turns = iter(range(1000))

    def handle(connection: socket.socket) -> None:
        connection.sendall(OK)
        idle.acquire(timeout=10)  # its answer has arrived: the connection is back in the pool
        if next(turns) % 2:
            connection.sendall(OK.replace(b"ok", b"no"))
        else:
            connection.shutdown(socket.SHUT_RDWR)
        wrong.release()

    with engine_that(gateway, handle):
        for _ in range(10):
            assert gateway.ask(request("POST", "/v1/_echo", b"x")).body == b"ok"
            idle.release()
            assert wrong.acquire(timeout=10)


def test_answer_before_the_body_is_read(gateway: Watched) -> None:
    """An engine that refuses a body without reading it is understood, though it closes then."""
    refusal = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig"
    for _ in range(5):
        reply = ask(gateway, says(refusal), request("POST", "/v1/_upload", b"x" * 900_000))
        assert (reply.status, reply.body) == (413, b"big")


def test_endless_head(gateway: Watched) -> None:
    """A head without end does not fill memory."""
    before = gateway.rss()

    def handle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for number in range(100):
            connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 100_000))
        connection.sendall(b"\r\n")

    assert ask(gateway, handle).status == 502
    assert gateway.rss() - before < 8e6
