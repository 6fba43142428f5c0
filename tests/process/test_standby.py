"""A standby becomes the next engine, and one that is of no use costs nothing but its time."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import change_scenario, scenario_of, start_pids
from tests.support.program import Program, until

STARTS_SECONDS = 90.0


def engine(program: Program) -> psutil.Process:
    """Return the leader of the engine that serves: the one with an engine core."""
    (leader,) = [child for child in psutil.Process(program.pid).children() if has_core(child)]
    return leader


def has_core(process: psutil.Process) -> bool:
    """Say whether it has an engine core; one that has ended meanwhile has none."""
    try:
        return any("EngineCor" in below.name() for below in process.children())
    except psutil.NoSuchProcess:
        return False


def standby(program: Program, number: int = 1) -> psutil.Process:
    """Wait until the so-many-th standby is ready; returns it."""
    until(lambda: program.log().count("a standby is ready") == number, "a standby", STARTS_SECONDS)
    serving = engine(program).pid
    (one,) = [child for child in psutil.Process(program.pid).children() if child.pid != serving]
    return one


def lose(program: Program) -> None:
    """Kill the engine and wait for the next."""
    before = engine(program).pid
    with program.loses_engine():
        os.kill(before, signal.SIGKILL)
    program.until_ready()


def test_the_next_engine(start: StartProgram, tmp_path: Path) -> None:
    """The standby is the next engine, another stands by for it, and SIGTERM leaves nobody."""
    program = start(STANDBY="1")
    program.until_ready()
    assert program.metric("gateway_standby_ready") == 0
    first = standby(program)
    assert program.metric("gateway_standby_ready") == 1
    assert program.metric("gateway_standby_bytes") > 1e6
    lose(program)
    assert engine(program).pid == first.pid
    assert "from the standby" in program.log()
    assert start_pids(scenario_of(tmp_path / "engine/bin/python"))[-1] == first.pid
    second = standby(program, 2)
    everybody = program.family()
    program.send(signal.SIGTERM)
    assert program.wait() == 0
    assert second in everybody
    until(lambda: not any(process.is_running() for process in everybody[1:]), "everybody's end")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "stuck"])
def test_of_no_use(start: StartProgram, number: signal.Signals) -> None:
    """A standby that died or does not answer is not waited for: a new engine is started."""
    program = start(STANDBY="1")
    program.until_ready()
    one = standby(program)
    one.send_signal(number)
    lose(program)
    assert engine(program).pid != one.pid
    assert "from the standby" not in program.log()
    until(lambda: not one.is_running(), "its end")


def test_a_start_that_fails_is_made_again(start: StartProgram, tmp_path: Path) -> None:
    """A standby that fails as an engine is no verdict: one more start tells, without a wait."""
    program = start(STANDBY="1")
    program.until_ready()
    one = standby(program)
    change_scenario(
        scenario_of(tmp_path / "engine/bin/python"),
        die_at_start=1,
        dies_times=2,
        last_lines=("ValueError: no such thing",),
    )
    lose(program)
    assert engine(program).pid != one.pid
    assert "that was the standby: the engine is started anew" in program.log()


def test_the_program_is_killed(start: StartProgram) -> None:
    """Nobody stands by for a program that is gone."""
    program = start(STANDBY="1")
    program.until_ready()
    one = standby(program)
    program.send(signal.SIGKILL)
    until(lambda: not one.is_running() or one.status() == psutil.STATUS_ZOMBIE, "its end")
