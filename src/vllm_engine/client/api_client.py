"""A client of any OpenAI-compatible server: plain questions, and chats as a stream of pieces."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from vllm_engine.errors import Problem, SettingsError, VllmEngineError

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 600.0
"""Longest silence in an answer: a long prompt on a slow machine takes minutes to its first token."""

_LONGEST_LINE = 4 << 20


class ServerError(VllmEngineError):
    """The server refused, broke off, or is not there.

    Attributes:
        status: the HTTP status; None where there was no answer.
    """

    def __init__(self, told: str, status: int | None = None) -> None:
        super().__init__(told)
        self.status = status


@dataclass(frozen=True)
class Server:
    """Where a server is and how it is spoken to; `url` ends before `/v1`."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Reply:
    """A whole answer; `body` is None where it is not JSON."""

    status: int
    body: Any
    text: str


@dataclass(frozen=True)
class Piece:
    """A part of an answer: text, thoughts before it, or at the end how many tokens it had."""

    text: str = ""
    reasoning: str = ""
    tokens: int | None = None


class Client:
    """Speaks to one server; use it as an asynchronous context manager."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self.server.api_key}"} if self.server.api_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        # A person pauses for longer than servers keep a connection: each question opens its own.
        connector = aiohttp.TCPConnector(ssl=self.server.tls or True, force_close=True)
        self._session = aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=timeout, read_bufsize=_LONGEST_LINE
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, path: str, body: object = None, *, seconds: float | None = None) -> Reply:
        """GET a path, or POST it if there is a body: bytes as they are, anything else as JSON.

        Raises:
            ServerError: there was no answer, in `seconds` if given; any status is an answer.
        """
        limit = aiohttp.ClientTimeout(total=seconds) if seconds else None
        async with self._request(path, body, limit) as response:
            text = (await response.read()).decode(errors="replace")
        return Reply(response.status, _json(text), text)

    async def first_model(self) -> str:
        """Return the first model that the server lists.

        Raises:
            ServerError: it lists none.
        """
        reply = await self.ask("/v1/models", seconds=30)
        if reply.status != 200:
            raise refusal(reply)
        try:
            return str(reply.body["data"][0]["id"])
        except (LookupError, TypeError):
            raise ServerError(f"{self.server.url}/v1/models does not list a model") from None

    async def chat(self, body: Mapping[str, Any]) -> AsyncGenerator[Piece]:
        """Stream a chat completion; closing the generator ends the request.

        Raises:
            ServerError: the server refuses, or the stream breaks off before its end.
        """
        asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with self._request("/v1/chat/completions", asked, None) as response:
            if response.status != 200:
                text = (await response.read()).decode(errors="replace")
                raise refusal(Reply(response.status, _json(text), text))
            async for line in response.content:
                data = line.strip().removeprefix(b"data:").lstrip()
                if data == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    yield _piece(_json(data.decode(errors="replace")))
        raise ServerError("the answer broke off: the server closed the stream before its end")

    @asynccontextmanager
    async def _request(
        self, path: str, body: object, limit: aiohttp.ClientTimeout | None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("the client is not open")
        url = self.server.url + path
        options: dict[str, Any] = {"timeout": limit} if limit else {}
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            options |= {"data": data, "headers": {"Content-Type": "application/json"}}
        try:
            async with self._session.request("GET" if body is None else "POST", url, **options) as response:
                yield response
        except aiohttp.ClientConnectorError as error:
            raise ServerError(
                f"no server answers at {self.server.url} ({error.strerror or error})"
            ) from error
        except TimeoutError as error:
            raise ServerError(f"{url}: no answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServerError(f"{url}: {type(error).__name__}: {error}") from error


def base_url(text: str) -> str:
    """Return a base URL without `/v1`, with which OpenAI's clients take it.

    Raises:
        SettingsError: it is none.
    """
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError([Problem("BASE_URL", text, "expected http://HOST:PORT or https://HOST")])
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def refusal(reply: Reply) -> ServerError:
    """Return what a status other than 200 says, in the server's own words."""
    return ServerError(f"status {reply.status}: {message_of(reply)}", reply.status)


def message_of(reply: Reply) -> str:
    """Return the message of an error body, whichever of the usual shapes it has."""
    error = reply.body.get("error", reply.body) if isinstance(reply.body, dict) else None
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return str(message or " ".join(reply.text.split())[:300] or "no reason given")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _piece(event: Any) -> Piece:
    if not isinstance(event, dict):
        raise ServerError("the stream holds an event that is no JSON object")
    if "error" in event:
        raise ServerError(message_of(Reply(200, event, json.dumps(event))))
    choice: dict[str, Any] = next(iter(event.get("choices") or ()), {})
    delta = choice.get("delta") or {}
    usage = event.get("usage") or {}
    return Piece(
        text=delta.get("content") or "",
        reasoning=delta.get("reasoning_content") or delta.get("reasoning") or "",
        tokens=usage.get("completion_tokens"),
    )
