"""The supervisor on a virtual clock: what it does after each way in which an engine fails or is lost, and how often."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.support.virtual.engine_rig import COMMAND, Life, Rig
from tests.support.virtual.virtual_time import in_virtual_time
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.control_client import Health
from vllm_engine.engine.engine_exit import EngineExit
from vllm_engine.engine.engine_state import Phase, StatusBoard
from vllm_engine.engine.restarts import FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS, RestartBudget
from vllm_engine.engine.startup.engine_folders import EngineFolders
from vllm_engine.engine.startup.preparation import Foreseen, Launch
from vllm_engine.engine.supervisor import Supervisor
from vllm_engine.errors import (
    Diagnosis,
    EngineError,
    Problem,
    SettingsError,
    StartupError,
    StartupTimeoutError,
    VllmEngineError,
)
from vllm_engine.plan.engine_command import EngineCommand
from vllm_engine.system.log import ENGINE_LOGGER

LASTING = Diagnosis("unknown", "no known cause")
PASSING = Diagnosis("hub-unreachable", "the hub cannot be reached", retryable=True)
TOO_LONG = Diagnosis("kv-cache-too-small", "no room", changes={"MAX_MODEL_LEN": "1280", "DTYPE": "float16"})
NO_FILES = OSError(errno.EMFILE, "Too many open files")
LOGS = Path(__file__).parents[2] / "data/logs/failed"
FORESEEN = Foreseen(EngineCommand(COMMAND.argv[:4], COMMAND.environ), [])
SETTINGS = load_settings(Environment({"STANDBY": "0", "STARTUP_TIMEOUT_SECONDS": "600"}, {}))


class Case:
    """A supervisor of played engines."""

    def __init__(
        self,
        folder: Path,
        *lives: Life,
        diagnosis: Diagnosis = LASTING,
        foresee: Foreseen | None = None,
        **changes: Any,
    ) -> None:
        self.rig, self.board, self.states = Rig(*lives), StatusBoard(), ["starting"]
        self.changes: list[Mapping[str, str]] = []
        self.exits: list[EngineExit] = []
        self.diagnosis = diagnosis
        self.prepare_error: VllmEngineError | None = None
        self.frontend = "python"
        self.prepare_seconds = 0.0
        self.prepared = 1
        """How many starts are prepared before that error."""
        self.board.watch(lambda status: self.states.append(status.state))
        self.supervisor = Supervisor(
            self.board, self._prepare, self._explain, folders=EngineFolders(folder, folder / "tmp"),
            settings=SETTINGS.model_copy(update=changes), activity=EngineActivity(), spawn=self.rig.spawn, connect=self.rig.connect,
            clock=asyncio.get_running_loop().time, foresee=(lambda _: foresee) if foresee else None,
        )  # fmt: skip

    async def _prepare(self, changes: Mapping[str, str]) -> Launch:
        self.changes.append(changes)
        await asyncio.sleep(self.prepare_seconds)
        if self.prepare_error is not None and len(self.changes) > self.prepared:
            raise self.prepare_error
        return Launch(COMMAND, None, "float16", frontend=self.frontend)

    def _explain(self, ended: EngineExit) -> Diagnosis:
        self.exits.append(ended)
        return self.diagnosis

    async def run(self, seconds: float = 1e5) -> BaseException | None:
        """Supervise until it ends or for so long; returns its error."""
        running = asyncio.create_task(self.supervisor.run())
        await asyncio.wait({running}, timeout=seconds)
        running.cancel()
        [result] = await asyncio.gather(running, return_exceptions=True)
        assert not any(process.is_running for process in self.rig.processes)
        return result

    @property
    def path(self) -> str:
        """The states in order, each once."""
        return " ".join(state for state, _ in groupby(self.states))


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
async def test_an_unknown_failure_after_imports_in_advance_is_tried_once_more(tmp_path: Path) -> None:
    """With a new process; a known failure is final."""
    for diagnosis, starts in ((LASTING, 2), (Diagnosis("no-gpu", "no GPU"), 1)):
        case = Case(tmp_path, Life(exits_after=5), diagnosis=diagnosis, standby=True, foresee=FORESEEN)
        assert isinstance(await case.run(), StartupError)
        assert len(case.rig.processes) == starts


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
