"""The first token of each frontend: which is asked when, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from tests.support.virtual.engine_rig import Client, Life, Process
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.control_client import ControlClient, Health
from vllm_engine.engine.engine_state import Phase, StatusBoard
from vllm_engine.engine.startup.first_tokens import FirstTokens

BOTH = '{"frontends": ["python", "rust"]}'


class Start:
    """An engine whose frontends are up after so long, and whose tokens take so long."""

    def __init__(self, folder: Path, python: float, rust: float, token: float, told: str = BOTH) -> None:
        self._loop = asyncio.get_running_loop()
        self.began, self.life = self._loop.time(), Life(up_after=python, token_seconds=token)
        process = Process(1, self.life, self.began)
        clients = Client(process), Client(process, rust - python)
        self.python, self.rust = (cast(ControlClient, client) for client in clients)
        (folder / "frontends.json").write_text(told)
        self.board = StatusBoard()
        self.tokens = FirstTokens(self.board, "m", folder / "frontends.json")

    async def took(self, planned: str) -> float:
        await self.tokens.generated(self.python, self.rust, planned)
        return round(self._loop.time() - self.began, 3)


@pytest.mark.parametrize(("rust", "planned", "told", "seconds"), [
    (1.0, "both", BOTH, 8.0), (5.0, "both", BOTH, 8.0), (7.0, "both", BOTH, 10.0),
    (9e9, "both", '{"frontends": ["python"]}', 8.0), (9e9, "python", BOTH, 8.0), (9e9, "rust", BOTH, 8.0),
])  # fmt: skip
@in_virtual_time
async def test_frontends_are_asked_side_by_side(
    tmp_path: Path, rust: float, planned: str, told: str, seconds: float
) -> None:
    start = Start(tmp_path, python=5.0, rust=rust, token=3.0, told=told)
    assert seconds <= await start.took(planned) <= seconds + 0.2
    assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing is asked any longer"


@in_virtual_time
async def test_a_model_that_is_ready_is_asked_for_more_often(tmp_path: Path) -> None:
    start = Start(tmp_path, python=5.01, rust=5.01, token=0.1)
    asyncio.get_running_loop().call_later(4.8, start.board.progress, Phase.WARMING_UP)
    assert await start.took("python") <= 5.16


@in_virtual_time
async def test_it_is_known_that_a_frontend_could_not_be_asked(tmp_path: Path) -> None:
    start = Start(tmp_path, python=5.0, rust=1.0, token=0.1)
    start.life.health = Health.NOT_ASKED
    waiting = asyncio.create_task(start.took("both"))
    for at, expected in ((0.9, False), (2.0, True), (6.0, True)):
        await asyncio.sleep(start.began + at - asyncio.get_running_loop().time())
        assert start.tokens.cannot_ask is expected, at
    start.life.health = Health.GOOD
    assert await waiting < 7
    assert not start.tokens.cannot_ask
