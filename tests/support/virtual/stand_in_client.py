"""A client that tests play, as the data path sees it."""

from __future__ import annotations

import asyncio

from starlette.types import Message

from vllm_engine.gateway.http.chunk_framing import content_of
from vllm_engine.gateway.http.client_stream import ClientStream, Producer


class StandInClient(ClientStream):
    """Keeps what it is sent; while `reads` is cleared, what is sent by ASGI waits."""

    def __init__(self) -> None:
        self.is_disconnected = False
        self.on_disconnect = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.chunks: list[bytes] = []
        """What was written to a stream, and the pieces of a whole body."""
        self.is_ended = False
        self.is_cut = False
        self.producer: Producer | None = None
        self.has_body = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
            return
        self.has_body.set()
        await self.reads.wait()
        self.is_ended = not message.get("more_body")
        if message["body"]:
            self.chunks.append(message["body"])

    def open_stream(self) -> None:
        pass

    def write_first(self, data: bytes) -> None:
        self.chunks.append(data)

    write_chunk = write_last = write_first

    def write_event(self, chunk: bytes) -> None:
        self.chunks.append(content_of(chunk))

    def set_producer(self, producer: Producer | None) -> None:
        self.producer = producer

    def abort(self) -> None:
        self.is_cut = True
