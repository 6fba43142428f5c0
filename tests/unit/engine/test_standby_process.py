"""A standby in the engine's Python: it becomes the command, and its processes those that the command starts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import until
from vllm_engine.engine.standby import SCRIPT, session_bytes, spawned
from vllm_engine.engine.standby_process import RECORD

# Two generations of processes as vLLM starts them: in an environment of their own, with a queue and a lock.
MAIN = """
import json, multiprocessing, os, sys

def worker(queue, lock):
    with lock:
        queue.put(["worker", os.getpid(), os.getppid(), os.environ.get("PLACES")])
    sys.exit(7)

def core(queue, lock):
    os.environ["PLACES"] = "{0,1}"
    one = multiprocessing.get_context("spawn").Process(target=worker, args=(queue, lock))
    one.start()
    one.join()
    queue.put(["core", os.getpid(), os.getppid(), one.exitcode])

def main():
    os.environ["SET_BY_MAIN"] = sys.argv[1]
    os.environ.pop("TAKEN_AWAY", None)
    context = multiprocessing.get_context("spawn")
    queue, lock = context.Queue(), context.Lock()
    one = context.Process(target=core, args=(queue, lock), daemon=False)
    one.start()
    said = [queue.get(timeout=60) for _ in range(2)]
    one.join()
    print(json.dumps({"leader": os.getpid(), "said": said, "status": one.exitcode, "argv": sys.argv[1:]}))
    return 5
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment with such a `vllm`, and a record."""
    folder = tmp_path / "site/vllm/entrypoints/cli"
    folder.mkdir(parents=True)
    for package in (folder, *folder.parents[:2]):
        (package / "__init__.py").touch()
    (folder / "main.py").write_text(MAIN)
    record = str(tmp_path / "spawned")
    return {
        "PYTHONPATH": str(tmp_path / "site"),
        "PATH": os.environ["PATH"],
        RECORD: record,
        "TAKEN_AWAY": "1",
    }


def fresh(environ: dict[str, str], argument: str) -> dict[str, Any]:
    """Run the command at once."""
    done = subprocess.run(
        [sys.executable, "-P", SCRIPT, argument], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 5, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@contextmanager
def standing_by(
    environ: dict[str, str], nodes: list[Any]
) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """Run a standby until it is ready."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-P", SCRIPT, "--standby"],
        env=environ,
        stdin=theirs.fileno(),
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    ours.settimeout(60)
    with ours, process:
        ours.sendall(json.dumps(nodes).encode() + b"\n")
        assert ours.recv(64) == b"ready\n"
        yield process, ours
        process.kill()


def go(process: subprocess.Popen[str], link: socket.socket, argument: str) -> dict[str, Any]:
    """Have it be the command; returns what that printed."""
    link.sendall(json.dumps({"arguments": [argument]}).encode() + b"\n")
    assert link.recv(64) == b"going\n"
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 5
    answer: dict[str, Any] = json.loads(output)
    return answer


def check(answer: dict[str, Any], argument: str) -> tuple[int, int]:
    """Check what the processes said, and return the pids of core and worker."""
    worker, core = answer["said"]
    assert answer["argv"] == [argument]
    assert answer["status"] == 0
    assert core[0] == "core"
    assert core[2] == answer["leader"]
    assert core[3] == 7
    assert worker[2] == core[1]
    assert worker[3] == "{0,1}"
    return core[1], worker[1]


def children(pid: int) -> list[int]:
    """Return a process's children."""
    return [
        int(child)
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if child.isdigit()
    ]


def test_its_processes_are_those_that_waited(environ: dict[str, str]) -> None:
    """With what a first start has written down, each process of the next one has been there before."""
    first = fresh(environ, "same")
    nodes = spawned(Path(environ[RECORD]), first["leader"])
    assert nodes == [
        {
            "set": {"SET_BY_MAIN": "same"},
            "unset": ["TAKEN_AWAY"],
            "children": [{"set": {"PLACES": "{0,1}"}, "unset": [], "children": []}],
        }
    ]
    with standing_by(environ, nodes) as (process, link):
        (core,) = children(process.pid)
        (worker,) = children(core)
        assert session_bytes(os.getsid(process.pid)) > 0
        answer = go(process, link, "same")
    assert check(answer, "same") == (core, worker)
    # What it started is written down for the one after it.
    assert spawned(Path(environ[RECORD]), answer["leader"]) == nodes


def test_another_environment_gets_new_processes(environ: dict[str, str]) -> None:
    """A process that would have another environment than the one that waits is started as ever."""
    nodes = spawned(Path(environ[RECORD]), fresh(environ, "same")["leader"])
    with standing_by(environ, nodes) as (process, link):
        waiting = children(process.pid)
        answer = go(process, link, "other")
    assert check(answer, "other")[0] not in waiting
    assert not any(Path(f"/proc/{pid}").exists() for pid in waiting)


def test_a_dead_one_is_replaced(environ: dict[str, str]) -> None:
    """A waiting process that has died costs nothing but its time."""
    nodes = spawned(Path(environ[RECORD]), fresh(environ, "same")["leader"])
    with standing_by(environ, nodes) as (process, link):
        (core,) = children(process.pid)
        os.kill(core, 9)
        answer = go(process, link, "same")
    assert check(answer, "same")[0] != core


def test_nobody_is_left(environ: dict[str, str]) -> None:
    """A standby whose program is gone ends, and so do those that wait below it."""
    nodes = spawned(Path(environ[RECORD]), fresh(environ, "same")["leader"])
    with standing_by(environ, nodes) as (process, link):
        (core,) = children(process.pid)
        (worker,) = children(core)
        link.close()
        assert process.wait(30) == 0
    until(lambda: not any(_runs(pid) for pid in (core, worker)), "their end")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_record(tmp_path: Path) -> None:
    """Without a record, or with half of one, there is nothing below the leader."""
    record = tmp_path / "spawned"
    assert spawned(record, 1) == []
    record.write_text('{"pid": 2, "par')
    assert spawned(record, 1) == []
