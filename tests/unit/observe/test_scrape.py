"""The engine's metrics: over which connections they are read, and what is none of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from vllm_engine.gateway.proxy import scrape
from vllm_engine.gateway.proxy.scrape import read_engine_metrics
from vllm_engine.gateway.proxy.upstream import Upstream

TEXT = b"a 1\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + TEXT


class Server:
    """An engine that gives these answers, one after the other; after None it closes the connection."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                answer = self.answers.pop(0)
                if answer is None:
                    break
                writer.write(answer)
        writer.close()


@asynccontextmanager
async def serving(path: Path, server: Server) -> AsyncIterator[Upstream]:
    """Have the server listen; yields the pool of connections to it."""
    upstream = Upstream(path)
    async with await asyncio.start_unix_server(server.serve, path):
        yield upstream
        upstream.close()
        for writer in server.writers:
            with suppress(ConnectionError):
                await writer.wait_closed()


async def test_one_connection(tmp_path: Path) -> None:
    """Reading again and again takes one connection."""
    server = Server(*[ANSWER] * 5)
    async with serving(tmp_path / "socket", server) as upstream:
        assert [await read_engine_metrics(upstream) for _ in range(5)] == [TEXT] * 5
    assert len(server.writers) == 1


async def test_a_kept_connection_that_is_closed(tmp_path: Path) -> None:
    """An engine that closes under the question is asked once more."""
    server = Server(ANSWER, None, ANSWER)
    async with serving(tmp_path / "socket", server) as upstream:
        assert [await read_engine_metrics(upstream) for _ in range(2)] == [TEXT] * 2
    assert len(server.writers) == 2


@pytest.mark.parametrize(
    "answers",
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\n" + TEXT,),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n" + b"x" * 99,),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx",),
        (b"nonsense\r\n\r\n",) * 2,
        (None,) * 2,
    ],
    ids=["404", "too large", "silent", "no HTTP", "closed"],
)
async def test_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: tuple[bytes | None]) -> None:
    """What is no answer, or endless, is as good as none; so is nobody there."""
    monkeypatch.setattr(scrape, "_MAX_BYTES", 50)
    monkeypatch.setattr(scrape, "SECONDS", 0.5)
    assert await read_engine_metrics(Upstream(tmp_path / "nobody")) is None
    async with serving(tmp_path / "socket", Server(*answers)) as upstream:
        assert await read_engine_metrics(upstream) is None
