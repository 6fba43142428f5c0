"""Requests to the engine itself: what each answer means, and what a token counts as."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from unittest.mock import patch

import aiohttp
import pytest

from vllm_engine.engine import control_client
from vllm_engine.engine.activity import OneTokenChecks
from vllm_engine.engine.control_client import ControlClient, ControlError, Health, NotAskedError
from vllm_engine.engine.engine_control import EngineControl
from vllm_engine.engine.engine_state import Frontend, StatusBoard


def answer(status: int, body: object = "") -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(text))
        + text
    )


@asynccontextmanager
async def asking(
    path: Path, reply: bytes | None, own: OneTokenChecks | None = None
) -> AsyncIterator[ControlClient]:
    """Ask an engine that replies with these bytes to everything; None: it hangs up."""

    serving: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with suppress(ConnectionError):
            if reply is not None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(reply)
                await reader.read()
            writer.close()
            await writer.wait_closed()

    async with (
        await asyncio.start_unix_server(serve, path),
        ControlClient(path, timeout_seconds=0.2, own=own) as client,
    ):
        yield client
    await asyncio.gather(*filter(None, serving))


HEALTH = (
    (answer(200), Health.GOOD), (answer(503), Health.DEAD), (answer(500), Health.NO_ANSWER), (b"", Health.NO_ANSWER),
    (None, Health.HUNG_UP), (b"nonsense\r\n\r\n", Health.HUNG_UP),
)  # fmt: skip


async def test_health(tmp_path: Path) -> None:
    """Only vLLM's own 503 says that its core is dead; an engine that hangs up still listens."""
    for reply, health in HEALTH:
        async with asking(tmp_path / "socket", reply) as client:
            assert await client.health() is health
    async with ControlClient(tmp_path / "socket") as client:
        assert await client.health() is Health.NOT_LISTENING
    assert [it for it in Health if it.is_lost] == [Health.DEAD, Health.NOT_LISTENING, Health.HUNG_UP]
    assert [it for it in Health if not it.is_certain] == [Health.NO_ANSWER, Health.NOT_ASKED]


COUNTED: tuple[tuple[bytes, tuple[int, int] | None], ...] = (
    (answer(200, {"choices": [{}], "usage": {"prompt_tokens": 3}}), (1, 3)),
    (answer(200, {"choices": [{}]}), (1, 1)),
    # An embedding model has no such route.
    (answer(404, {"detail": "Not Found"}), (0, 0)), (answer(404, {"message": "The model `m` does not exist"}), None),
    (answer(500, {"error": {}}), None), (answer(200, {"choices": []}), None), (answer(200, []), None), (answer(200, b"nonsense"), None),
)  # fmt: skip


async def test_one_token(tmp_path: Path) -> None:
    """It is counted as the engine counts it, and not at all where the engine had nothing to do."""
    for reply, counted in COUNTED:
        own = OneTokenChecks()
        async with asking(tmp_path / "socket", reply, own) as client:
            with nullcontext() if counted else pytest.raises(ControlError):
                await client.generate_one("m")
        assert (own.running, own.asked, own.prompt_tokens) == (0, *(counted or (1, 1)))


async def test_models(tmp_path: Path) -> None:
    async with asking(tmp_path / "socket", answer(200, {"data": [{"id": "m"}]})) as client:
        assert json.loads(await client.models()) == {"data": [{"id": "m"}]}
    async with asking(tmp_path / "socket", answer(200, {})) as client:
        with pytest.raises(ControlError, match="without a list of models"):
            await client.models()


async def test_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is not one, or endless, is as good as none; so is an engine that is not there."""
    monkeypatch.setattr(control_client, "_MAX_METRICS_BYTES", 50)
    monkeypatch.setattr(control_client, "_METRICS_TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    text = b"python_gc 7\nvllm:steps 1\n"
    async with asking(tmp_path / "socket", answer(200, text)) as client:
        assert await client.metrics() == text
        counters = await client.counters()
    for other, moved in ((b"python_gc 8\nvllm:steps 1\n", False), (b"python_gc 7\nvllm:steps 2\n", True)):
        async with asking(tmp_path / "socket", answer(200, other)) as client:
            assert (await client.counters() != counters) is moved
    cut = answer(200, text)[:-1]
    for reply in (answer(404, text), answer(200, b"x" * 51), cut, b"nonsense\r\n\r\n", None):
        async with asking(tmp_path / "socket", reply) as client:
            assert await client.metrics() is None
            assert await client.counters() is None


async def test_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded too; an engine that has none says so with 404, and any other answer is an error."""
    monkeypatch.setattr(control_client, "_MAX_DESCRIPTION_BYTES", 50)
    monkeypatch.setattr(control_client, "_DESCRIPTION_TIMEOUT", aiohttp.ClientTimeout(total=0.2))
    for reply, told in ((answer(200, b"{}"), b"{}"), (answer(404, b"x"), None)):
        async with asking(tmp_path / "socket", reply) as client:
            assert await client.description() == told
    for bad in (
        answer(500, b"x"),
        answer(200, b"x" * 51),
        answer(200, b"{}")[:-1],
        b"nonsense\r\n\r\n",
        None,
    ):
        async with asking(tmp_path / "socket", bad) as client:
            with pytest.raises(ControlError):
                await client.description()


async def test_for_want_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked, however the library wraps what the kernel said; the token is not counted."""

    async def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "no more")

    own = OneTokenChecks()
    async with ControlClient(tmp_path / "socket", own=own) as client:
        monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", fail)
        assert await client.health() is Health.NOT_ASKED
        assert await client.metrics() is None
        for question in (
            client.generate_one("m"),
            client.models(),
            client.counters(),
            client.description(),
        ):
            with pytest.raises(NotAskedError):
                await question
    assert own.asked == 0


async def test_two_frontends(tmp_path: Path) -> None:
    """The worst health counts, and of the metrics both or none; which of them run is asked each time."""
    board, paths = StatusBoard(), (tmp_path / "python", tmp_path / "rust")
    good, dead = answer(200, b"vllm:a 1"), answer(503)
    both = (Frontend.PYTHON, Frontend.RUST)
    for replies, frontends, health, known in (
        ((good, good), both, Health.GOOD, both),
        ((good, dead), both, Health.DEAD, None),
        ((dead, good), both, Health.DEAD, None),
        ((None, good), both, Health.HUNG_UP, None),
        ((b"", b""), both, Health.NO_ANSWER, None),
        ((good, dead), both[:1], Health.GOOD, both[:1]),
        ((good, dead), both[1:], Health.GOOD, both[1:]),
        ((good, dead), (), Health.GOOD, both[:1]),
    ):
        board.serving_with(frontends)
        limit = 0.2 if b"" in replies else 10.0
        async with (
            asking(paths[0], replies[0]),
            asking(paths[1], replies[1]),
            EngineControl(*paths, board, timeout_seconds=limit) as control,
        ):
            assert await control.health() is health
            with patch.object(control_client, "_METRICS_TIMEOUT", aiohttp.ClientTimeout(total=limit)):
                texts = await control.metrics()
        assert (tuple(texts) if texts else None) == known
        for path in paths:
            path.unlink(missing_ok=True)
