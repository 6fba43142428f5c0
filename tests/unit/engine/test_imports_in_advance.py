"""Engines from processes that have imported vLLM in advance; on a virtual clock, with played processes."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

import pytest

from tests.support.virtual.engine_rig import COMMAND, Life
from tests.support.virtual.supervised import FORESEEN, LASTING, Case
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.startup.preparation import Foreseen
from vllm_engine.errors import Diagnosis, StartupError
from vllm_engine.plan.engine_command import EngineCommand


@in_virtual_time
async def test_the_standby_is_the_next_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    case = Case(tmp_path, Life(exits_after=60), Life(up_after=1), Life(), standby=True)
    await case.run(120)
    _, second, third = case.rig.processes
    assert case.rig.engine is second
    assert (second.ended, third.ended) == (["stop 10"], ["stop 1"])
    assert ", from the standby" in caplog.text


@in_virtual_time
async def test_a_standby_that_fails_as_an_engine_is_no_verdict(tmp_path: Path) -> None:
    """One more start follows at once and is not counted; a standby that takes too long is such a failure too."""
    for life in (Life(exits_after=54), Life(up_after=1e6)):
        case = Case(tmp_path, Life(exits_after=60), life, Life(), standby=True, max_restarts=1)
        await case.run(200)
        assert case.path.endswith("backoff starting ready draining stopped")
        assert case.board.current.starts == 3
        assert [ended.was_ready for ended in case.exits] == [True, False]
    # What fails before the engine's process runs is not the standby's failure.
    case = Case(tmp_path, Life(exits_after=60), Life(exits_after=80), standby=True)
    case.prepared, case.prepare_error = 2, StartupError("the model is gone")
    assert await case.run(1000) is case.prepare_error


@in_virtual_time
async def test_imports_go_on_while_a_start_is_prepared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process that imported is the engine, at the first start and after each loss without a standby."""
    caplog.set_level(logging.INFO)
    lives = (Life(up_after=1, exits_after=22.5), Life(up_after=1))
    case = Case(tmp_path, *lives, standby=True, foresee=FORESEEN)
    case.rig.import_seconds, case.prepare_seconds = 20.0, 15.0
    running = asyncio.create_task(case.run(46))
    await asyncio.sleep(22)
    assert case.board.current.is_ready, "15 s of preparation and 20 s of imports have gone on together"
    [first] = case.rig.processes
    assert (case.rig.engine, first.pid) == (first, case.board.current.pid)
    await asyncio.sleep(23)
    assert case.board.current.is_ready, "and the delay of the restart, too"
    await running
    _, second = case.rig.processes
    assert (second.ended, [ended.was_ready for ended in case.exits]) == (["stop 10"], [True])
    assert "from the standby" not in caplog.text


@in_virtual_time
async def test_what_was_imported_in_advance_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With another environment or after its end, a new process is the engine; after a failed preparation it ends."""
    other = Foreseen(EngineCommand(COMMAND.argv[:4], {"A": "2", "OFFLINE": "1"}), [])
    for foreseen, life, why in (
        (other, Life(), "the engine needs another A, OFFLINE"),
        (FORESEEN, Life(exits_after=1), "it has ended, or takes too long"),
    ):
        case = Case(tmp_path, life, Life(), standby=True, foresee=foreseen)
        await case.run(60)
        first, second, *_ = case.rig.processes
        assert (first.is_running, case.rig.engine) == (False, second)
        assert f"cannot be used ({why}): a new engine is started" in caplog.text
    case = Case(tmp_path, Life(), standby=True, foresee=FORESEEN)
    case.prepared, case.prepare_error = 0, StartupError("no such model")
    assert await case.run() is case.prepare_error
    assert [process.ended for process in case.rig.processes] == [["stop 1"]]
    case = Case(tmp_path, Life(), standby=False, foresee=FORESEEN)
    await case.run(60)
    assert [process.ended for process in case.rig.processes] == [["stop 10"]], "STANDBY=0: nothing in advance"


@in_virtual_time
async def test_a_temporary_folder_that_is_gone_is_a_failed_start(tmp_path: Path) -> None:
    """Nothing can be imported in the delay before a restart then; the restart says what is wrong."""
    folder = tmp_path / "run"
    folder.mkdir()
    case = Case(folder, Life(exits_after=6), standby=True, foresee=FORESEEN, max_restarts=1)
    case.board.watch(lambda status: shutil.rmtree(folder, ignore_errors=True) if status.is_ready else None)
    error = await case.run()
    assert isinstance(error, StartupError)
    assert str(error).startswith("the engine cannot be started: [Errno 2] No such file or directory")


@in_virtual_time
async def test_an_unknown_failure_after_imports_in_advance_is_tried_once_more(tmp_path: Path) -> None:
    """With a new process; a known failure is final."""
    for diagnosis, starts in ((LASTING, 2), (Diagnosis("no-gpu", "no GPU"), 1)):
        case = Case(tmp_path, Life(exits_after=5), diagnosis=diagnosis, standby=True, foresee=FORESEEN)
        assert isinstance(await case.run(), StartupError)
        assert len(case.rig.processes) == starts
