"""A client of any OpenAI-compatible server: whole replies, and chat completions as a stream of pieces."""

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
"""Read timeout: on a slow machine a long prompt takes minutes until its first token."""

_LONGEST_LINE = 4 << 20


class ServerError(VllmEngineError):
    """The server rejected the request, broke off, or cannot be reached.

    Attributes:
        status: the HTTP status; None if there was no response.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(ServerError):
    """Nothing listens there."""


@dataclass(frozen=True)
class Server:
    """How to reach a server; `url` ends before `/v1`."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class Reply:
    """A whole response; `body` is None if it is not JSON."""

    status: int
    body: Any
    text: str


@dataclass(frozen=True)
class Piece:
    """A part of an answer: text, reasoning before it, or at the end the number of tokens."""

    text: str = ""
    reasoning: str = ""
    tokens: int | None = None
    is_cut: bool = False
    """Whether the answer ends here because of `max_tokens`."""


class Client:
    """Sends requests to one server; use it as an asynchronous context manager."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Authorization": f"Bearer {self.server.api_key}"} if self.server.api_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        # Users pause for longer than servers keep connections open: each request opens its own.
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
        """GET a path, or POST a body to it: bytes as they are, anything else as JSON.

        Raises:
            ServerError: there was no response within `seconds`, if given; any status is a response.
        """
        limit = aiohttp.ClientTimeout(total=seconds) if seconds else None
        async with self._request(path, body, limit) as response:
            text = (await response.read()).decode(errors="replace")
        return Reply(response.status, _json(text), text)

    async def first_model(self) -> str:
        """Return the first model that the server lists.

        Raises:
            ServerError: it does not list any.
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
            ServerError: the server rejects the request, or the stream ends early.
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
        raise ServerError("incomplete answer: the server closed the stream before [DONE]")

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
            raise UnreachableError(
                f"cannot connect to {self.server.url} ({error.strerror or error})"
            ) from error
        except TimeoutError as error:
            raise ServerError(f"{url}: the request timed out") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ServerError(f"{url}: {type(error).__name__}: {error}") from error


def base_url(text: str) -> str:
    """Return a base URL without the `/v1` with which OpenAI's clients expect it.

    Raises:
        SettingsError: it is not an HTTP URL.
    """
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SettingsError([Problem("BASE_URL", text, "expected http://HOST:PORT or https://HOST")])
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def refusal(reply: Reply) -> ServerError:
    """Return the error for a status other than 200, with the server's own message."""
    return ServerError(f"status {reply.status}: {message_of(reply)}", reply.status)


def message_of(reply: Reply) -> str:
    """Return the message of an error body in any of the common shapes."""
    error = reply.body.get("error", reply.body) if isinstance(reply.body, dict) else None
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return str(message or " ".join(reply.text.split())[:300] or "no error message")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _piece(event: Any) -> Piece:
    if not isinstance(event, dict):
        raise ServerError("the stream contains an event that is not a JSON object")
    if "error" in event:
        raise ServerError(message_of(Reply(200, event, json.dumps(event))))
    choice: dict[str, Any] = next(iter(event.get("choices") or ()), {})
    delta = choice.get("delta") or {}
    usage = event.get("usage") or {}
    return Piece(
        text=delta.get("content") or "",
        reasoning=delta.get("reasoning_content") or delta.get("reasoning") or "",
        tokens=usage.get("completion_tokens"),
        is_cut=choice.get("finish_reason") == "length",
    )
