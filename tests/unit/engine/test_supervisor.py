"""The supervisor on a virtual clock: what it does after each way in which an engine fails or is lost."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.engine_rig import COMMAND, Life, Rig
from tests.support.virtual_time import in_virtual_time
from vllm_engine.engine.activity import EngineActivity
from vllm_engine.engine.control_client import Health
from vllm_engine.engine.engine_exit import EngineExit
from vllm_engine.engine.engine_state import EngineState, Phase, StatusBoard
from vllm_engine.engine.supervisor import Launch, Policy, Supervisor
from vllm_engine.engine.watchdog.watchdog import WatchdogLimits
from vllm_engine.errors import Diagnosis, EngineError, StartupError, StartupTimeoutError

LASTING = Diagnosis("unknown", "no known cause")
PASSING = Diagnosis("hub-unreachable", "the hub cannot be reached", retryable=True)
TOO_LONG = Diagnosis("kv-cache-too-small", "no room", changes={"MAX_MODEL_LEN": "1280", "DTYPE": "float16"})
NO_FILES = OSError(errno.EMFILE, "Too many open files")


@dataclass
class Case:
    """A supervisor of played engines."""

    rig: Rig
    folder: Path
    diagnosis: Diagnosis = LASTING
    startup_timeout: float = 600.0
    max_restarts: int = 5
    window: float = 600.0
    auto_fit: bool = False
    standby: bool = False
    prepare_error: StartupError | None = None
    exits: list[EngineExit] = field(default_factory=list)
    states: list[EngineState] = field(default_factory=list)
    changes: list[Mapping[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.board, self.activity = StatusBoard(), EngineActivity()
        self.board.watch(lambda status: self.states.append(status.state))

    async def _prepare(self, changes: Mapping[str, str]) -> Launch:
        self.changes.append(changes)
        if self.prepare_error is not None and len(self.changes) > 1:
            raise self.prepare_error
        return Launch(COMMAND, "m", None, "float16")

    def _explain(self, ended: EngineExit) -> Diagnosis:
        self.exits.append(ended)
        return self.diagnosis

    async def run(self, seconds: float = 1e5) -> BaseException | None:
        """Supervise until it ends or for so long; returns its error."""
        loop = asyncio.get_running_loop()
        self.supervisor = Supervisor(
            self.board,
            self._prepare,
            self._explain,
            socket=self.folder / "engine.sock",
            policy=Policy(
                self.startup_timeout,
                self.max_restarts,
                self.window,
                self.auto_fit,
                WatchdogLimits(180, 30),
                self.standby,
            ),
            activity=self.activity,
            spawn=self.rig.spawn,
            connect=self.rig.connect,
            clock=loop.time,
        )
        running = asyncio.create_task(self.supervisor.run())
        await asyncio.wait({running}, timeout=seconds)
        running.cancel()
        [result] = await asyncio.gather(running, return_exceptions=True)
        assert not any(process.is_running for process in self.rig.processes)
        return result

    def path(self) -> list[str]:
        """The states in order, each once."""
        return [str(it) for n, it in enumerate(self.states) if n == 0 or it is not self.states[n - 1]]


@in_virtual_time
async def test_it_serves_until_it_is_cancelled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    case = Case(Rig(Life()), tmp_path)
    assert isinstance(await case.run(60), asyncio.CancelledError)
    assert case.path() == ["starting", "ready", "draining", "stopped"]
    assert [process.ended for process in case.rig.processes] == [["stop 10"]]
    assert "ready after 5." in caplog.text


def test_an_engine_that_is_lost_is_started_again(tmp_path: Path) -> None:
    """Whatever the way; if its first process was still running, its own exit status is not evidence."""
    for life, seen, status, hang in (
        (Life(exits_after=60, status=0), "", 0, False),
        (Life(exits_after=60, status=-9), "", -9, False),
        (Life(token_seconds=5), "did not generate a token within", None, True),
    ):

        @in_virtual_time
        async def test(
            life: Life = life, seen: str = seen, status: int | None = status, hang: bool = hang
        ) -> None:
            case = Case(Rig(life, Life()), tmp_path)
            if hang:
                asyncio.get_running_loop().call_later(60, setattr, life, "token_seconds", None)
            await case.run(380 if hang else 90)
            [ended] = case.exits
            assert (ended.status, ended.was_ready, ended.is_hang, seen in ended.seen) == (
                status,
                True,
                hang,
                True,
            )
            unhealthy = ["unhealthy"] if hang else []
            assert case.path() == [
                "starting",
                "ready",
                *unhealthy,
                "backoff",
                "starting",
                "ready",
                "draining",
                "stopped",
            ]
            assert [process.ended[0] for process in case.rig.processes] == ["reap", "stop 10"]

        test()


@pytest.mark.parametrize(
    ("health", "seen"), [(Health.DEAD, "dead"), (Health.NOT_LISTENING, "nothing listens")]
)
def test_health_of_a_ready_engine(tmp_path: Path, health: Health, seen: str) -> None:
    @in_virtual_time
    async def test() -> None:
        life = Life()
        case = Case(Rig(life, Life()), tmp_path)
        asyncio.get_running_loop().call_later(60, setattr, life, "health", health)
        await case.run(120)
        assert [seen in ended.seen for ended in case.exits] == [True]
        assert len(case.rig.processes) == 2

    test()


@in_virtual_time
async def test_lost_too_often(tmp_path: Path) -> None:
    """The wait doubles; then the last reason is given, and how often it was tried."""
    case = Case(Rig(Life(exits_after=10)), tmp_path, max_restarts=2)
    error = await case.run()
    assert isinstance(error, StartupError)
    assert (
        str(error) == "no known cause; given up after 2 restarts within RESTART_WINDOW_SECONDS=600 [unknown]"
    )
    assert (len(case.rig.processes), case.path()[-1], case.board.current.error) == (
        3,
        "failed",
        error.diagnosis,
    )
    waits = [
        now.born - before.born - 10
        for before, now in zip(case.rig.processes, case.rig.processes[1:], strict=False)
    ]
    assert 0.125 <= waits[0] <= 0.26
    assert 0.25 <= waits[1] <= 0.51


@in_virtual_time
async def test_losses_that_lie_far_apart_are_not_added_up(tmp_path: Path) -> None:
    case = Case(Rig(Life(exits_after=20)), tmp_path, max_restarts=1, window=10)
    assert isinstance(await case.run(210), asyncio.CancelledError)
    assert len(case.rig.processes) == 11


@pytest.mark.parametrize("status", [0, 1])
def test_no_restarts(tmp_path: Path, status: int) -> None:
    @in_virtual_time
    async def test() -> None:
        case = Case(Rig(Life(exits_after=60, status=status)), tmp_path, max_restarts=0)
        error = await case.run()
        assert type(error) is EngineError
        assert str(case.exits[0]) == f"the engine exited with status {status} while it was serving"
        assert len(case.rig.processes) == 1

    test()


@in_virtual_time
async def test_a_start_that_fails_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last lines are logged, at most 25."""
    tail = tuple(f"line {number}" for number in range(40))
    case = Case(Rig(Life(exits_after=3, tail=tail)), tmp_path)
    error = await case.run()
    assert type(error) is StartupError
    assert (len(case.rig.processes), case.exits[0].tail, case.exits[0].was_ready) == (1, tail, False)
    lines = [it.getMessage() for it in caplog.records if it.getMessage().startswith("engine's last lines")]
    assert (len(lines), lines[-1]) == (25, "engine's last lines | line 39")


@in_virtual_time
async def test_a_start_whose_cause_may_pass_is_tried_again(tmp_path: Path) -> None:
    case = Case(Rig(Life(exits_after=3), Life()), tmp_path, PASSING)
    await case.run(100)
    assert "ready" in case.path()


@in_virtual_time
async def test_a_start_that_takes_too_long(tmp_path: Path) -> None:
    """It is not tried again, whatever its cause; its phase is told."""
    case = Case(Rig(Life(up_after=1e6)), tmp_path, PASSING, startup_timeout=60)
    error = await case.run()
    assert type(error) is StartupTimeoutError
    assert (case.exits[0].status, case.exits[0].phase, len(case.rig.processes)) == (None, "importing", 1)


@in_virtual_time
async def test_an_engine_that_cannot_be_asked_is_not_late(tmp_path: Path) -> None:
    """For want of files of our own it is waited for; it is ready once it can be asked."""
    life = Life(health=Health.NOT_ASKED)
    case = Case(Rig(life), tmp_path, startup_timeout=60)
    asyncio.get_running_loop().call_later(500, setattr, life, "health", Health.GOOD)
    await case.run(600)
    assert case.path()[:2] == ["starting", "ready"]
    assert not case.exits


@in_virtual_time
async def test_ready_means_that_it_generates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An engine whose /health is 200 and that fails to generate is not ready; the log says so now and then."""
    life = Life(fails=True)
    case = Case(Rig(life), tmp_path)
    loop, seen = asyncio.get_running_loop(), list[tuple[bool, Phase]]()
    loop.call_later(70, lambda: seen.append((case.board.current.is_ready, case.board.current.phase)))
    loop.call_later(71, setattr, life, "fails", False)
    loop.call_later(80, lambda: seen.append((case.board.current.is_ready, case.board.current.phase)))
    await case.run(100)
    assert seen == [(False, Phase.WARMING_UP), (True, Phase.READY)]
    assert caplog.text.count("does not generate yet") == 3


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_auto_fit(tmp_path: Path, is_on: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A start that lacks memory is tried once more, at once, with the size that fits and nothing else changed."""

    @in_virtual_time
    async def test() -> None:
        case = Case(Rig(Life(exits_after=3)), tmp_path, TOO_LONG, auto_fit=is_on, max_restarts=5)
        assert isinstance(await case.run(), StartupError)
        assert case.changes == ([{}, {"MAX_MODEL_LEN": "1280"}] if is_on else [{}])
        assert ("NOT AS SET, the engine is started once more with MAX_MODEL_LEN=1280" in caplog.text) is is_on

    test()


@pytest.mark.parametrize("where", ["prepare", "spawn"])
def test_a_start_for_want_of_files_is_tried_again(tmp_path: Path, where: str) -> None:
    """Every 5 s, and not counted: it is tried although no restarts are allowed."""

    @in_virtual_time
    async def test() -> None:
        lives = [Life(spawn_error=NO_FILES)] * 3 if where == "spawn" else [Life(exits_after=10)]
        case = Case(Rig(*lives, Life()), tmp_path, max_restarts=0 if where == "spawn" else 1)
        if where == "prepare":
            case.prepare_error = StartupError("cannot read the model")
            case.prepare_error.__cause__ = NO_FILES
        await case.run(31)
        assert len(case.changes) == (4 if where == "spawn" else 6)

    test()


@in_virtual_time
async def test_a_command_that_cannot_be_run(tmp_path: Path) -> None:
    case = Case(Rig(Life(spawn_error=FileNotFoundError(errno.ENOENT, "No such file"))), tmp_path)
    error = await case.run()
    assert isinstance(error, StartupError)
    assert str(error).startswith("the engine cannot be started: ")


@in_virtual_time
async def test_an_engine_that_is_lost_while_draining_is_not_started_again(tmp_path: Path) -> None:
    case = Case(Rig(Life(exits_after=60)), tmp_path)
    asyncio.get_running_loop().call_later(30, lambda: case.supervisor.begin_drain())
    assert isinstance(await case.run(), EngineError)
    assert case.path() == ["starting", "ready", "draining", "failed"]
    assert len(case.rig.processes) == 1


@in_virtual_time
async def test_the_standby_is_the_next_engine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    case = Case(Rig(Life(exits_after=60), Life(up_after=1), Life()), tmp_path, standby=True)
    await case.run(120)
    _, second, third = case.rig.processes
    assert case.rig.engine is second
    assert second.ended == ["stop 10"]
    assert third.ended == ["stop 1"]
    assert ", from the standby" in caplog.text


@in_virtual_time
async def test_a_standby_that_fails_as_an_engine_is_no_verdict(tmp_path: Path) -> None:
    """One more start follows at once and is not counted; a standby that takes too long is such a failure too."""
    for life in (Life(exits_after=54), Life(up_after=1e6)):
        case = Case(Rig(Life(exits_after=60), life, Life()), tmp_path, standby=True, max_restarts=1)
        await case.run(200)
        assert case.path()[-4:] == ["starting", "ready", "draining", "stopped"]
        assert case.board.current.starts == 3
        assert [ended.was_ready for ended in case.exits] == [True, False]
