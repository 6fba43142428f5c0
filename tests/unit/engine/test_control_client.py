"""The supervisor's questions to the engine: what each is counted as."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from vllm_engine.engine.activity import OwnQuestions
from vllm_engine.engine.control_client import ControlClient, ControlError, Health


@pytest.mark.parametrize(
    ("status", "answer", "counted"),
    [
        (200, {"choices": [{}], "usage": {"prompt_tokens": 3}}, (1, 3, 1)),
        (200, {"choices": [{}]}, (1, 1, 1)),
        # An embedding model has no such route.
        (404, {"detail": "Not Found"}, (0, 0, 0)),
        (500, {"error": {}}, (1, 1, 1)),
    ],
    ids=["with usage", "without", "no such route", "failed"],
)
async def test_own_questions(
    tmp_path: Path, status: int, answer: object, counted: tuple[int, int, int]
) -> None:
    """One token is counted as the engine counts it, and nothing where the engine had nothing to do."""

    async def complete(_: web.Request) -> web.Response:
        assert (own.running, own.asked) == (1, 1)
        return web.json_response(answer, status=status)

    own = OwnQuestions()
    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    async with ControlClient(tmp_path / "socket", own=own) as probe:
        if status == 500:
            with pytest.raises(ControlError):
                await probe.generate_one("m")
        else:
            await probe.generate_one("m")
    await runner.cleanup()
    assert own.running == 0
    assert (own.asked, own.prompt_tokens, own.generated_tokens) == counted


async def test_who_hangs_up_is_there(tmp_path: Path) -> None:
    """An engine that is short of files takes a connection and closes it (libuv does): it is not absent."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with ControlClient(tmp_path / "socket") as probe:
        assert await probe.health() is Health.NOT_LISTENING
        async with await asyncio.start_unix_server(hang_up, tmp_path / "socket"):
            assert await probe.health() is Health.HUNG_UP
        assert await probe.health() is Health.NOT_LISTENING


@pytest.mark.parametrize(
    ("status", "health"),
    [(200, Health.GOOD), (503, Health.DEAD), (500, Health.NO_ANSWER), (404, Health.NO_ANSWER)],
)
async def test_only_its_own_word_says_that_the_core_is_dead(
    tmp_path: Path, status: int, health: Health
) -> None:
    """VLLM answers 503 when its engine core is dead (0.32's `entrypoints/serve/instrumentator/health.py`)."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app = web.Application()
    app.router.add_get("/health", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    async with ControlClient(tmp_path / "socket") as probe:
        assert await probe.health() is health
    await runner.cleanup()
