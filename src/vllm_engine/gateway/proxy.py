"""The data path: a request's bytes to the engine over its Unix socket, the answer's bytes back."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

import aiohttp
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from vllm_engine.engine.state import StatusReader
from vllm_engine.errors import error_body
from vllm_engine.gateway.identity import REQUEST_ID, request_id
from vllm_engine.gateway.replies import send_error, send_not_ready

POOL_KEEP_ALIVE_SECONDS = 60.0
"""Idle connections to the engine are closed by us, long before vLLM would (see `engine.command`)."""

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""RFC 9110, section 7.6.1: these speak of one connection and are not passed on."""

_T = TypeVar("_T")
logger = logging.getLogger("gateway.proxy")


class ClientGone(Exception):
    """The client closed its connection before it had its answer."""


class Proxy:
    """ASGI app that answers every request with what the engine answers."""

    def __init__(self, status: StatusReader, socket: Path) -> None:
        self._status = status
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """How many requests are at the engine now."""
        return self._in_flight

    async def until_idle(self) -> None:
        """Wait until no request is at the engine."""
        await self._idle.wait()

    async def start(self) -> None:
        """Open the pool of connections to the engine; needs a running event loop."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(
                path=str(self._socket), limit=0, keepalive_timeout=POOL_KEEP_ALIVE_SECONDS
            ),
            # A long prefill sends nothing for minutes: only the client decides how long to wait.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        )

    async def stop(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or say why not."""
        identity = request_id(scope["headers"])
        if not self._status.current.is_ready or self._session is None:
            await send_not_ready(send, self._status.current, identity)
            return
        exchange = _Exchange(self._session, scope, receive, send, identity)
        self._in_flight += 1
        self._idle.clear()
        try:
            await exchange.run()
        except ClientGone:
            logger.debug("%s: the client left before the answer was complete", identity.decode())
        except (aiohttp.ClientError, OSError) as error:
            await exchange.upstream_failed(error)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._idle.set()


class _Exchange:
    """One request and its answer."""

    def __init__(
        self, session: aiohttp.ClientSession, scope: Scope, receive: Receive, send: Send, identity: bytes
    ) -> None:
        self._session = session
        self._scope = scope
        self._receive = receive
        self._send = send
        self._identity = identity
        self._body_read = asyncio.Event()
        self._client_gone = False
        self._started = False
        self._is_event_stream = False

    async def run(self) -> None:
        """Relay until the answer is complete or the client has left."""
        body = await self._request_body()
        await self._unless_client_leaves(self._relay(body))

    async def upstream_failed(self, error: Exception) -> None:
        """End an exchange whose upstream broke: an error answer, or one SSE event, or an abort."""
        if self._client_gone:
            return  # the HTTP client reports a body that ended early as an upstream failure
        logger.warning("%s: the engine broke off: %r", self._identity.decode(), error)
        body = error_body("The engine broke off this request", type="upstream_error", code=502)
        if not self._started:
            await send_error(self._send, 502, body, self._identity)
        elif self._is_event_stream:
            # No [DONE] follows: a client must be able to tell a broken stream from a whole one.
            event = b"data: " + json.dumps(body).encode() + b"\n\n"
            await self._send({"type": "http.response.body", "body": event})
        else:
            raise error

    async def _request_body(self) -> bytes | AsyncIterator[bytes] | None:
        first = await self._receive()
        self._fail_if_gone(first)
        if first.get("more_body"):
            return self._rest_of_body(first["body"])
        self._body_read.set()
        return first["body"] or None

    async def _rest_of_body(self, first: bytes) -> AsyncIterator[bytes]:
        yield first
        more = True
        while more:
            message = await self._receive()
            self._fail_if_gone(message)
            more = message.get("more_body", False)
            if not more:
                self._body_read.set()
            yield message["body"]

    async def _relay(self, body: bytes | AsyncIterator[bytes] | None) -> None:
        target = self._scope["raw_path"].decode("latin-1")
        if self._scope["query_string"]:
            target += "?" + self._scope["query_string"].decode("latin-1")
        async with self._session.request(
            self._scope["method"],
            URL("http://engine" + target, encoded=True),
            headers=_upstream_headers(self._scope["headers"], self._identity),
            data=body,
            allow_redirects=False,
        ) as response:
            headers = [
                (name, value)
                for name, value in _end_to_end(response.raw_headers)
                if name not in (REQUEST_ID, b"date")  # our server sends its own
            ]
            headers.append((REQUEST_ID, self._identity))
            self._is_event_stream = response.content_type == "text/event-stream"
            if self._is_event_stream:
                headers.append((b"x-accel-buffering", b"no"))
            self._started = True
            await self._send({"type": "http.response.start", "status": response.status, "headers": headers})
            async for chunk in response.content.iter_any():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            await self._send({"type": "http.response.body", "body": b""})

    async def _unless_client_leaves(self, work: Awaitable[None]) -> None:
        relaying = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._client_leaves())
        try:
            await asyncio.wait({relaying, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not relaying.done():
                raise ClientGone
            relaying.result()
        finally:
            # Cancelling the relay closes its upstream connection: that is how vLLM learns of it.
            for task in (relaying, leaving):
                task.cancel()
            await asyncio.gather(relaying, leaving, return_exceptions=True)

    async def _client_leaves(self) -> None:
        await self._body_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _fail_if_gone(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self._client_gone = True
            raise ClientGone


def _upstream_headers(headers: list[tuple[bytes, bytes]], identity: bytes) -> list[tuple[str, str]]:
    kept = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in _end_to_end(headers)
        if name not in (REQUEST_ID, b"host", b"expect")
    ]
    return [("Host", "engine"), *kept, ("X-Request-Id", identity.decode())]


def _end_to_end(headers: object) -> list[tuple[bytes, bytes]]:
    pairs = [(bytes(name).lower(), bytes(value)) for name, value in headers]  # type: ignore[attr-defined]
    named = {
        part.strip().lower() for name, value in pairs if name == b"connection" for part in value.split(b",")
    }
    return [(name, value) for name, value in pairs if name not in _HOP_BY_HOP and name not in named]
