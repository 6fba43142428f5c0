"""A client's connection, played byte by byte in virtual time: what is served, refused, held, cut and closed."""

from __future__ import annotations

import asyncio
import re
from typing import cast

import pytest
from starlette.types import Receive, Scope, Send

from tests.support.hostile_cases import AMBIGUOUS, OTHER_PROTOCOLS
from tests.support.virtual.client_transport import CLOSED, FINISHED, ClientTransport, transport_of
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.gateway.http.client_connection import ClientConnection
from vllm_engine.gateway.http.client_stream import client_stream_of
from vllm_engine.gateway.http.http_server import Server
from vllm_engine.gateway.http.incoming import ConnectionLimits

LIMITS = ConnectionLimits(header_timeout_seconds=10, send_timeout_seconds=20, max_connections=2)
POST = b"POST /v1/upload HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
INCOMPLETE = POST + b"Content-Length: 9\r\n\r\n123"


def get(path: str = "/", *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: x", *headers, "", "")).encode()


class App:
    """Echoes bodies, answers `/early` before the body, streams on `/stream` until told to end."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.log: list[str] = []
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["raw_path"].decode() + "?" + scope["query_string"].decode())
        client = client_stream_of(scope)
        if client.is_disconnected:
            return
        client.on_disconnect = cast(asyncio.Task[None], asyncio.current_task()).cancel
        try:
            body, more = b"", scope["path"] != "/early"
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            client.watch_for_disconnect()
            if scope["path"] == "/slow":
                await self.ended.wait()
            headers = [(b"content-length", b"%d" % len(body))]
            if scope["path"] == "/stream":
                headers = []
                client.open_stream()
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if not headers:
                client.write_first(b"first")
                client.set_producer(self)
                await self.ended.wait()
                client.write_last(b"last")
            await send({"type": "http.response.body", "body": body})
            self.log.append(f"served {len(body)}")
        except asyncio.CancelledError:
            self.log.append("disconnected")

    def pause(self) -> None:
        self.log.append("paused")

    def resume(self) -> None:
        self.log.append("resumed")

    def probe(self) -> None:
        self.log.append("probed")


class Rig:
    """A server without sockets, and one client's connection to it."""

    def __init__(self, *, tls: bool = False) -> None:
        self.app = App()
        self.server = Server(self.app, LIMITS, keep_alive_seconds=60, tls=None, lifespan="off")
        self.server.config.load()
        self.server.lifespan = self.server.config.lifespan_class(self.server.config)
        self.connection = ClientConnection(self.server, LIMITS)
        self.client = transport_of(self.connection, tls=tls)

    def another_client(self) -> ClientTransport:
        return transport_of(ClientConnection(self.server, LIMITS))

    async def send(self, data: bytes, *, piece: int = 1_000_000) -> bytes:
        """Send as much as is read; returns all that the client was told so far."""
        for at in range(0, len(data), piece):
            if self.client.is_closing() or not self.client.is_reading_:
                break
            self.connection.data_received(data[at : at + piece])
            await settle()
        await settle()
        return self.client.written

    def half_close(self) -> None:
        self.client.client.state = FINISHED
        assert self.connection.eof_received()

    async def end(self) -> None:
        """Let the application end its response."""
        self.app.ended.set()
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


@pytest.mark.parametrize("piece", [1_000_000, 7])
@in_virtual_time
async def test_what_is_not_valid_http_is_refused(piece: int) -> None:
    """Neither it nor what stands behind it is served; what is left of it is discarded."""
    cases = {name: text.encode("latin-1") for name, text in AMBIGUOUS.items()}
    if piece > 7:
        cases |= OTHER_PROTOCOLS  # a request line in pieces is left to the parser
    for name, data in cases.items():
        rig = Rig()
        await rig.send(data, piece=piece)
        await asyncio.sleep(60)
        assert set(statuses(rig.client.written)) <= {400, 405, 408}, name
        assert rig.client.is_closing(), name
        assert not [asked for asked in rig.app.asked if "smuggled" in asked], name
        assert not [line for line in rig.app.log if "served" in line], name


@in_virtual_time
async def test_what_has_no_end_is_refused_early() -> None:
    """The parser keeps heads, trailers and extensions of any length; 64 KiB of them are taken."""
    filler = b"x" * 10_000
    bombs = (
        (b"GET /" + filler, filler), (get()[:-2] + b"X: ", filler), (get()[:-2], b"X: 1\r\n" * 1000),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: %s\r\n" % filler), (CHUNKED + b"1;", filler),
        (CHUNKED, b"0" * 10_000), (CHUNKED + b"1\r\nx\r\n", b"1;%s\r\nx\r\n" % (b"y" * 1000)),
    )  # fmt: skip
    for head, piece in bombs:
        rig = Rig()
        sent, count = await rig.send(head), 0
        while not sent and count * len(piece) <= 90_000:
            sent, count = await rig.send(piece), count + 1
        assert statuses(sent) in ([431], [400]), (head, sent)
        assert b"connection: close" in sent
        assert not [line for line in rig.app.log if "served" in line]
    rig = Rig()
    await rig.send(CHUNKED + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
    assert rig.app.log == ["served 20000"]


@in_virtual_time
async def test_a_head_has_its_time_however_it_trickles() -> None:
    for data in (b"", b"PO", b"POST /v1/_ec", POST, b"\r\n", get() + b"POST"):
        rig = Rig()
        began = asyncio.get_running_loop().time()
        await rig.send(data)
        for _ in range(12):
            if rig.client.is_closing() or rig.client.is_half_closed:
                break
            await asyncio.sleep(1)
            if data.startswith(b"POST"):
                await rig.send(b"x")
        assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=1.1), data
        assert statuses(rig.client.written) in ([], [408], [200, 408]), data
    rig = Rig()  # and an idle connection its own time: empty lines are not a request
    await rig.send(get())
    await rig.send(b"\r\n" * 3)
    await asyncio.sleep(59)
    is_closed_early = rig.client.is_closing()
    await asyncio.sleep(2)
    assert (is_closed_early, rig.client.is_closing()) == (False, True)


@in_virtual_time
async def test_pipelined_requests_are_answered_in_order_and_not_all_read() -> None:
    """And a disconnect is noticed although nothing is read."""
    rig = Rig()
    asked = [POST.replace(b"upload", b"%d" % n) + b"Content-Length: 3\r\n\r\n%03d" % n for n in range(40)]
    said = await rig.send(get("/stream") + b"\r\n" + b"".join(asked))
    assert said.endswith(b"5\r\nfirst\r\n")
    await rig.end()
    await asyncio.sleep(1)
    answers = rig.client.written.split(b"HTTP/1.1 200 OK\r\n")[2:]
    assert [answer[-3:] for answer in answers] == [b"%03d" % n for n in range(40)]
    rig = Rig()
    await rig.send(get("/slow"))
    for _ in range(100):
        await rig.send(get("/behind", "X: " + "x" * 900) * 10)
    assert not rig.client.is_reading_
    assert len(rig.connection._held) < 100_000
    await asyncio.sleep(60)
    assert (rig.client.written, rig.app.log) == (b"", [])
    rig.client.client.state = CLOSED
    await asyncio.sleep(1)
    assert (rig.app.log, rig.app.asked) == (["disconnected"], ["/slow?"])


@in_virtual_time
async def test_a_response_before_the_body() -> None:
    """A small rest is read, and the connection serves the next request; a large one is discarded for a while."""
    rig = Rig()
    early = POST.replace(b"/v1/upload", b"/early")
    said = await rig.send(early + b"Content-Length: 5\r\n\r\n")
    assert b"connection: close" not in said
    assert statuses(await rig.send(b"12345" + get())) == [200, 200]
    for rest in (b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
        rig = Rig()
        assert b"connection: close" in await rig.send(early + rest)
        for _ in range(5):
            await rig.send(b"x" * 1000 + get("/smuggled"))
            await asyncio.sleep(1)
        ends = [(rig.client.is_half_closed, rig.client.is_cut)]
        await asyncio.sleep(10)
        assert [*ends, (rig.client.is_half_closed, rig.client.is_cut)] == [(True, False), (True, True)]
        assert len(rig.app.asked) == 1


@in_virtual_time
async def test_an_upgrade_is_ignored_and_a_wish_to_be_asked_is_granted() -> None:
    rig = Rig()
    upgrade = POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
    assert (await rig.send(upgrade + get("/next"))).count(b"hello") == 1
    assert rig.app.asked == ["/v1/upload?", "/next?"]
    rig = Rig()
    said = await rig.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert said == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (await rig.send(b"hello")).endswith(b"hello")


@in_virtual_time
async def test_a_half_closed_client_is_probed_and_gets_its_response_unless_it_is_gone() -> None:
    """At first after a while, then seldom."""
    rig = Rig()
    await rig.send(get("/stream"))
    await asyncio.sleep(40)
    assert rig.app.log == []
    rig.half_close()
    await asyncio.sleep(40)
    assert rig.app.log == ["probed"] * 3
    await rig.end()
    assert (rig.client.written[-14:], rig.client.is_closing()) == (b"4\r\nlast\r\n0\r\n\r\n", True)
    rig = Rig()
    await rig.send(get("/slow"))
    rig.half_close()
    await asyncio.sleep(0.2)
    assert rig.client.written == b""
    await asyncio.sleep(1)
    assert (rig.client.written, rig.app.log) == (b"HTTP/1.1 102 Processing\r\n\r\n", [])
    rig.client.client.state = CLOSED
    await asyncio.sleep(1)
    assert (rig.app.log, rig.client.is_cut) == (["disconnected"], True)


@in_virtual_time
async def test_http_1_0_gets_no_chunks_and_no_probe_before_its_response() -> None:
    """Its stream ends with the connection."""
    rig = Rig()
    await rig.send(b"GET /stream HTTP/1.0\r\n\r\n")
    await rig.end()
    head, _, body = rig.client.written.partition(b"\r\n\r\n")
    assert (body, b"chunked" in head, rig.client.is_closing()) == (b"firstlast", False, True)
    rig = Rig()
    await rig.send(b"GET /slow HTTP/1.0\r\n\r\n")
    rig.half_close()
    await asyncio.sleep(1)
    assert rig.app.log == ["disconnected"]


@in_virtual_time
async def test_an_end_before_the_request_is_whole() -> None:
    """No part of a body is taken for all of it."""
    for data in (b"", b"POST", POST, INCOMPLETE, CHUNKED + b"3\r\nab"):
        rig = Rig()
        await rig.send(data)
        rig.connection.eof_received()
        rig.connection.connection_lost(None)
        await settle()
        assert rig.app.log in ([], ["disconnected"]), data


@in_virtual_time
async def test_a_client_that_does_not_read() -> None:
    """Its stream is paused, and cut after the time to send; the incomplete body behind it is never whole."""
    rig = Rig()
    await rig.send(get("/stream"))
    rig.client.unsent = 100_000
    rig.connection.pause_writing()
    rig.connection.resume_writing()
    rig.connection.pause_writing()
    await asyncio.sleep(19)
    assert rig.app.log == ["paused", "resumed", "paused"]
    await asyncio.sleep(2)
    assert (rig.app.log[3:], rig.client.is_cut) == (["disconnected"], True)
    rig = Rig()
    rig.client.unsent = 100_000
    await rig.send(get() + INCOMPLETE)
    await asyncio.sleep(21)
    assert (rig.app.log, rig.client.is_cut) == (["served 0", "disconnected"], True)


@in_virtual_time
async def test_more_connections_than_there_may_be() -> None:
    rig = Rig()
    others = [rig.another_client() for _ in range(2)]
    assert [other.is_closing() for other in others] == [False, True]
    assert others[1].written.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"MAX_CONNECTIONS=2" in others[1].written
    assert b"retry-after: 1" in others[1].written


@in_virtual_time
async def test_connections_end_one_by_one() -> None:
    """Idle ones now or at their next response, those in use after their response, which says so."""
    for leave in (Server.announce_close, Server.close_idle):
        rig = Rig(tls=True)
        idle = rig.another_client()
        await rig.send(get("/slow"))
        leave(rig.server)
        assert (idle.is_closing(), rig.client.is_closing()) == (leave is Server.close_idle, False)
        await rig.end()
        assert (b"connection: close" in rig.client.written, rig.client.is_closing()) == (True, True)
        rig.connection.data_received(get("/behind"))  # over TLS it still comes while that response is written
        await settle()
        assert rig.app.asked == ["/slow?"]
