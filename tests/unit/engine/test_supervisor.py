"""The supervisor on a virtual clock: what it does after each way in which an engine fails or is lost, and how often."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.virtual.engine_rig import Life
from tests.support.virtual.supervised import (
    LASTING,
    LOGS,
    NO_FILES,
    PASSING,
    TOO_LONG,
    Case,
)
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.engine.control_client import Health
from vllm_engine.engine.engine_state import Phase
from vllm_engine.engine.restarts import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, RestartBudget
from vllm_engine.errors import (
    Diagnosis,
    EngineError,
    Problem,
    SettingsError,
    StartupError,
    StartupTimeoutError,
)
from vllm_engine.system.log import ENGINE_LOGGER


def later(seconds: float, life: Life, **changes: object) -> None:
    """Change a life after some seconds."""
    for name, value in changes.items():
        asyncio.get_running_loop().call_later(seconds, setattr, life, name, value)


@in_virtual_time
async def test_the_engines_output(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its level and source, and moves the start's progress; errors of a stop are none."""
    caplog.set_level(logging.INFO)
    case = Case(tmp_path, Life(up_after=50))
    running = asyncio.create_task(case.run(100))
    await asyncio.sleep(1)
    case.rig.on_line("(EngineCore pid=1) WARNING 11-23 09:35:26 [core.py:1] Starting to load model x")
    case.rig.on_line("Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.2s/it]")
    assert (case.board.current.phase, case.board.current.fraction) == (Phase.LOADING_WEIGHTS, 0.5)
    assert isinstance(await running, asyncio.CancelledError)
    assert case.path == "starting ready draining stopped"
    assert [process.ended for process in case.rig.processes] == [["stop 10"]]
    early = Case(tmp_path, Life(up_after=50))
    await early.run(10)
    assert [process.ended for process in early.rig.processes] == [["stop 1"]], "nothing can be lost yet"
    assert "ready after 50." in caplog.text
    case.rig.on_line("(APIServer pid=1) INFO 11-23 09:35:36 [api_utils.py:347] ")
    case.rig.on_line("ERROR 11-23 09:35:36 [a.py:1] the core has died")
    said = [(it.levelname, it.getMessage()) for it in caplog.records if it.name == ENGINE_LOGGER]
    assert said[0] == ("WARNING", "EngineCore: Starting to load model x")
    assert said[-1] == ("INFO", "the core has died")
    assert all(words.strip() for _, words in said), "empty lines of vLLM's banner are not logged"


@pytest.mark.parametrize(("planned", "told", "runs", "seconds"), [
    ("python", None, "python", 5), ("rust", None, "rust", 5), ("both", '{"frontends": ["python", "rust"]}', "python rust", 25),
    ("both", '{"frontends": ["python"], "reason": "no binary"}', "python", 5), ("both", "[", "python", 5), ("both", None, "python", 5),
])  # fmt: skip
@in_virtual_time
async def test_ready_needs_each_frontend(
    tmp_path: Path, planned: str, told: str | None, runs: str, seconds: int
) -> None:
    """Those that the launcher says it has started; without its word the Python frontend."""
    case = Case(tmp_path, Life(up_after=5, rust_later=20, frontends=told))
    case.frontend = planned
    at: list[float] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    case.board.watch(lambda status: at.append(loop.time() - began) if status.is_ready else None)
    await case.run(60)
    assert " ".join(case.board.current.frontends) == runs
    assert seconds < at[0] < seconds + 1


@pytest.mark.parametrize(("change", "seen", "is_hang"), [
    ({"status": 0}, "", False), ({"status": -9}, "", False), ({"token_seconds": None}, "did not generate a token within", True),
    ({"health": Health.DEAD}, "engine core is dead", False), ({"health": Health.NOT_LISTENING}, "nothing listens", True),
])  # fmt: skip
@in_virtual_time
async def test_an_engine_that_is_lost_is_started_again(
    tmp_path: Path, change: dict[str, Any], seen: str, is_hang: bool
) -> None:
    """Whatever the way; if its first process was still running, its own exit status is no evidence."""
    exits = "status" in change
    life = Life(token_seconds=5, exits_after=60 if exits else None, **(change if exits else {}))
    case = Case(tmp_path, life, Life())
    if not exits:
        later(60, life, **change)
    await case.run(380 if "token_seconds" in change else 90)
    [ended] = case.exits
    assert (ended.status, ended.was_ready, ended.is_hang) == (change.get("status"), True, is_hang)
    assert seen in ended.seen
    unhealthy = "" if exits else "unhealthy "
    assert case.path == f"starting ready {unhealthy}backoff starting ready draining stopped"
    assert [process.ended[0] for process in case.rig.processes] == ["reap", "stop 10"]


@in_virtual_time
async def test_lost_too_often(tmp_path: Path) -> None:
    """The wait doubles; then the last reason is given, and how often it was tried."""
    case = Case(tmp_path, Life(exits_after=10), max_restarts=2)
    error = await case.run()
    assert isinstance(error, StartupError)
    assert "given up after 2 restarts within RESTART_WINDOW_SECONDS=600 [unknown]" in str(error)
    assert (case.path.split()[-1], case.board.current.error) == ("failed", error.diagnosis)
    first, second, third = (process.born for process in case.rig.processes)
    assert 0.125 <= second - first - 10 <= 0.26
    assert 0.25 <= third - second - 10 <= 0.51
    # Losses that lie far apart are not added up.
    case = Case(tmp_path, Life(exits_after=20), max_restarts=1, restart_window_seconds=10)
    assert isinstance(await case.run(210), asyncio.CancelledError)
    assert len(case.rig.processes) == 11


@in_virtual_time
async def test_what_is_not_tried_again(tmp_path: Path) -> None:
    """A start whose settings do not fit, one that fails, and a loss while draining or where no restart is allowed."""
    case = Case(tmp_path)
    case.prepared, case.prepare_error = 0, SettingsError([Problem("MAX_MODEL_LEN", "9", "expected less")])
    assert await case.run() is case.prepare_error
    assert (case.path, case.rig.processes) == ("starting failed", [])
    tail = tuple(f"line {number}" for number in range(40))
    case = Case(tmp_path, Life(exits_after=3, tail=tail))
    assert type(await case.run()) is StartupError
    assert (len(case.rig.processes), case.exits[0].tail, case.exits[0].was_ready) == (1, tail, False)
    case = Case(tmp_path, Life(exits_after=60))
    asyncio.get_running_loop().call_later(30, case.supervisor.begin_drain)
    assert type(await case.run()) is EngineError
    assert (case.path, len(case.rig.processes)) == ("starting ready draining failed", 1)
    case = Case(tmp_path, Life(exits_after=60, status=0), max_restarts=0)
    assert type(await case.run()) is EngineError
    assert str(case.exits[0]) == "the engine exited with status 0 while it was serving"
    assert len(case.rig.processes) == 1


@pytest.mark.parametrize(("diagnosis", "level", "count"), [
    (LASTING, logging.INFO, 25), (TOO_LONG, logging.INFO, 0), (TOO_LONG, logging.DEBUG, 0), (TOO_LONG, logging.WARNING, 25),
])  # fmt: skip
@in_virtual_time
async def test_the_engines_last_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, diagnosis: Diagnosis, level: int, count: int
) -> None:
    """They are repeated where no known cause matches, or where they were not logged when they came."""
    caplog.set_level(level, ENGINE_LOGGER)
    tail = tuple(f"line {number}" for number in range(40))
    for life in (Life(exits_after=3, tail=tail), Life(up_after=1e6, tail=tail)):
        caplog.clear()
        await Case(tmp_path, life, diagnosis=diagnosis).run()
        lines = [
            it.getMessage() for it in caplog.records if it.getMessage().startswith("engine's last lines")
        ]
        assert lines == [f"engine's last lines | {line}" for line in tail[len(tail) - count :]]


@in_virtual_time
async def test_nothing_is_said_twice_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was logged as an error is not among the last lines; vLLM's second traceback of it is left out."""
    caplog.set_level(logging.WARNING, ENGINE_LOGGER)
    tail = (LOGS / "cuda-oom-kv-cache.log").read_text().splitlines()[1:]
    case = Case(tmp_path, Life(exits_after=3, tail=tuple(tail)), diagnosis=TOO_LONG)
    running = asyncio.create_task(case.run())
    await asyncio.sleep(1)
    for line in tail:
        case.rig.on_line(line)
    await running
    assert caplog.text.count("torch.OutOfMemoryError: CUDA out of memory") == 1
    assert caplog.text.count("RuntimeError: Engine core initialization failed") == 1
    assert caplog.text.count("Traceback (most recent call last):") == 2


@in_virtual_time
async def test_a_start_whose_cause_may_pass_is_tried_again(tmp_path: Path) -> None:
    """But not one that takes too long, whatever its cause."""
    case = Case(tmp_path, Life(exits_after=3), Life(), diagnosis=PASSING)
    await case.run(100)
    assert "ready" in case.path
    case = Case(tmp_path, Life(up_after=1e6), diagnosis=PASSING, startup_timeout_seconds=60)
    assert type(await case.run()) is StartupTimeoutError
    assert (case.exits[0].status, case.exits[0].phase, len(case.rig.processes)) == (None, "importing", 1)
    # An engine that cannot be asked for want of files of our own is not late: it is ready once it can be asked.
    life = Life(health=Health.NOT_ASKED)
    case = Case(tmp_path, life, startup_timeout_seconds=60)
    later(500, life, health=Health.GOOD)
    await case.run(600)
    assert (case.path, case.exits) == ("starting ready draining stopped", [])


@in_virtual_time
async def test_ready_means_that_it_generates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An engine whose /health is 200 and that fails to generate is not ready; the log says so now and then."""
    life = Life(fails=True)
    case = Case(tmp_path, life)
    later(71, life, fails=False)
    await asyncio.wait({asyncio.create_task(case.run(100))}, timeout=70)
    assert (case.board.current.is_ready, case.board.current.phase) == (False, Phase.WARMING_UP)
    assert caplog.text.count("does not generate yet") == 3
    await asyncio.sleep(10)
    assert (case.board.current.is_ready, case.board.current.phase) == (True, Phase.READY)
    await asyncio.sleep(100)


@in_virtual_time
async def test_auto_fit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A start that lacks memory is tried once more, at once, with the size that fits and nothing else changed."""
    for is_on, changes in ((False, [{}]), (True, [{}, {"MAX_MODEL_LEN": "1280"}])):
        assert "overrides your settings" not in caplog.text
        case = Case(tmp_path, Life(exits_after=3), diagnosis=TOO_LONG, auto_fit=is_on)
        assert isinstance(await case.run(), StartupError)
        assert case.changes == changes
    assert (
        "AUTO_FIT=1 overrides your settings: starting the engine once more with MAX_MODEL_LEN=1280"
        in caplog.text
    )


@in_virtual_time
async def test_a_start_for_want_of_files_is_tried_again(tmp_path: Path) -> None:
    """Every 5 s, and not counted: it is tried although no restarts are allowed, or left."""
    case = Case(tmp_path, *[Life(spawn_error=NO_FILES)] * 3, Life(), max_restarts=0)
    await case.run(31)
    assert len(case.changes) == 4
    case = Case(tmp_path, Life(exits_after=10), max_restarts=1)
    case.prepare_error = StartupError("cannot read the model")
    case.prepare_error.__cause__ = NO_FILES
    await case.run(31)
    assert len(case.changes) == 6
    # Any other error of the kernel is a lasting one.
    error = await Case(tmp_path, Life(spawn_error=FileNotFoundError(errno.ENOENT, "No such file"))).run()
    assert isinstance(error, StartupError)
    assert str(error).startswith("the engine cannot be started: ")


def test_restart_budget() -> None:
    """The wait doubles up to a limit, and between half and all of it is taken; a used-up window has to pass."""
    budget = RestartBudget(20, 600.0, clock=lambda: 0.0, jitter=lambda: 1.0)
    waits = [budget.take() for _ in range(12)]
    assert waits[:3] == [FIRST_DELAY_SECONDS, 2 * FIRST_DELAY_SECONDS, 4 * FIRST_DELAY_SECONDS]
    assert waits[-1] == LONGEST_DELAY_SECONDS
    assert RestartBudget(1, 600.0, jitter=lambda: 0.0).take() == FIRST_DELAY_SECONDS * 0.5
    now = 0.0
    budget = RestartBudget(2, 600.0, clock=lambda: now)
    assert budget.take() is not None
    now = 500.0
    assert budget.take() is not None
    assert budget.take() is None
    now = 601.0
    assert budget.used == 1
    assert budget.take() is not None
    assert RestartBudget(0, 600.0).take() is None
