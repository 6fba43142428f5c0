"""The fake engine's view of ASGI: a request, an answer, and what to do when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.support.fake.fake_shapes import dump

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_Result = TypeVar("_Result")


class ClientGoneError(Exception):
    """The client left before its request was complete."""


@dataclass
class Request:
    """A request, its body not read yet."""

    scope: Mapping[str, Any]
    receive: Receive

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    def header(self, name: str) -> str | None:
        return next((v.decode("latin-1") for k, v in self.scope["headers"] if k == name.encode()), None)

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            yield message.get("body", b"")
            if not message.get("more_body"):
                return

    async def body(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])


@dataclass
class Answer:
    """What is sent back; `events` instead of `body` for a stream."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = None
    headers: Sequence[tuple[str, str]] = ()
    events: AsyncGenerator[bytes, None] | None = None
    location: str | None = None

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        return cls(status, dump(value), "application/json", headers)

    def raw_headers(self, request_id: str | None) -> list[tuple[bytes, bytes]]:
        pairs = list(self.headers)
        if self.events is None:
            pairs.append(("content-length", str(len(self.body))))
        if self.content_type:
            pairs.append(("content-type", self.content_type))
        if self.location is not None:
            pairs.append(("location", self.location))
        # The CORS middleware, on with vLLM's defaults, adds this to each answer.
        pairs.append(("vary", "Origin"))
        if request_id is not None:
            pairs.append(("x-request-id", request_id))
        return [(name.encode(), value.encode("latin-1")) for name, value in pairs]


async def until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result | None:
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait({task, gone})
    return None if task.cancelled() else task.result()


async def lifespan(receive: Receive, send: Send) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})
