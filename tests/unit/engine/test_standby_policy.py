"""When there is a standby, and when it becomes the engine; on a virtual clock, with played processes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Literal

import pytest

from tests.support.virtual.engine_rig import COMMAND, Life, Rig
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.standby import BYTES_IMPORTED, BYTES_LEFT, Standby
from vllm_engine.plan.engine_command import EngineCommand

ENOUGH = BYTES_LEFT + BYTES_IMPORTED


class Case:
    """A standby beside an engine that serves."""

    def __init__(self, folder: Path, *lives: Life, mode: bool | Literal["auto"] = True) -> None:
        self.rig = Rig(*lives)
        self.told: list[int | None] = []
        self.lines: list[str] = []
        self.free = ENOUGH
        self.standby = Standby(
            folder / "spawned", mode, on_line=self.lines.append, tell=self.told.append, spawn=self.rig.spawn,
            free_memory=lambda: self.free,
        )  # fmt: skip
        self.command = self.standby.entry(COMMAND)

    async def keep(self, seconds: float) -> None:
        """Let an engine serve for so long, then lose it."""
        keeping = asyncio.create_task(self.standby.keep(self.command, 1))
        await asyncio.sleep(seconds)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    def starts(self) -> list[float]:
        """When processes were spawned, in seconds from the beginning."""
        return [process.born - 1000.0 for process in self.rig.processes]


@in_virtual_time
async def test_one_that_cannot_be_used_is_ended(tmp_path: Path) -> None:
    for why in ("another environment", "no answer", "dead"):
        case = Case(tmp_path)
        case.rig.standby_answers = why != "no answer"
        await case.keep(10)
        command = (
            EngineCommand(case.command.argv, {"A": "2"}) if why == "another environment" else case.command
        )
        if why == "dead":
            case.rig.processes[0].exit(-9)
            await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        assert await case.standby.take(command) is None
        assert asyncio.get_running_loop().time() - began == (2 if why == "no answer" else 0)
        assert (case.told, case.rig.processes[0].ended) == ([0, None], ["stop 1"])


@in_virtual_time
async def test_three_attempts(tmp_path: Path) -> None:
    """Each waits four times as long as the one before; nobody waits for ever for an import."""
    for life, imports, starts in (
        (Life(), 1e6, [3, 3 + 300 + 12, 3 + 300 + 12 + 300 + 48]),
        (Life(exits_after=1), 2.0, [3, 3 + 1 + 12, 3 + 1 + 12 + 1 + 48]),
        (Life(spawn_error=OSError("no files")), 2.0, []),
    ):
        case, now = Case(tmp_path, life), asyncio.get_running_loop().time() - 1000.0
        case.rig.import_seconds = imports
        await case.keep(5000)
        assert [start - now for start in case.starts()] == pytest.approx(starts, abs=0.01)
        assert not any(process.is_running for process in case.rig.processes)
        assert not case.told or case.told[-1] is None


@in_virtual_time
async def test_none_is_wanted(tmp_path: Path) -> None:
    """The command is then left as it is; another program's too."""
    case = Case(tmp_path, mode=False)
    assert case.command == COMMAND
    await case.keep(1000)
    assert case.starts() == []
    assert Case(tmp_path).standby.entry(EngineCommand(("other",), {})) == EngineCommand(("other",), {})


@in_virtual_time
async def test_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With auto there is one only while memory allows; it does not come back once it was let go."""
    caplog.set_level(logging.INFO)
    case = Case(tmp_path, mode="auto")
    case.free = ENOUGH - 1
    await case.keep(1000)
    assert (case.starts(), "set STANDBY=1" in caplog.text) == ([], True)
    insisting = Case(tmp_path, mode=True)
    insisting.free = 0
    await insisting.keep(100)
    assert insisting.told == [0]
    await insisting.standby.close()
    case.free = ENOUGH
    asyncio.get_running_loop().call_later(60, setattr, case, "free", BYTES_LEFT // 4 - 1)
    asyncio.get_running_loop().call_later(90, setattr, case, "free", ENOUGH)
    await case.keep(1000)
    assert case.told == [0, None]
    assert [process.ended for process in case.rig.processes] == [["stop 1"]]
    assert "too little memory is available" in caplog.text


@in_virtual_time
async def test_it_is_kept_for_an_idle_engine(tmp_path: Path) -> None:
    """One that is there outlasts the engine's stop; one for which memory was too short is made when there is more."""
    case = Case(tmp_path)
    await case.keep(10)
    await case.keep(1000)
    assert (case.starts(), case.told) == ([3], [0])
    short = Case(tmp_path, mode="auto")
    short.free = ENOUGH - 1
    began = asyncio.get_running_loop().time() - 1000
    await short.keep(10)
    short.free = ENOUGH
    await short.keep(10)
    assert [start - began for start in short.starts()] == [13]
    for one in (case, short):
        await one.standby.close()


@in_virtual_time
async def test_it_is_ready_some_seconds_after_the_engine_and_becomes_the_next(tmp_path: Path) -> None:
    """From then on its output is the engine's."""
    case = Case(tmp_path)
    await case.keep(4)
    # Lost while the standby imported: it is ended, the next engine needs the CPUs.
    assert (case.starts(), case.told, case.rig.processes[0].ended) == ([3], [], ["stop 1"])
    await case.keep(10)
    assert case.told == [0]
    case.rig.on_line("importing")
    assert await case.standby.take(case.command) == (case.rig.processes[1].real, True)
    case.rig.on_line("serving")
    assert (case.told, case.lines) == ([0, None], ["serving"])
    assert await case.standby.take(case.command) is None
    await case.standby.close()
    assert case.rig.processes[1].is_running
    case.rig.processes[1].exit(0)
