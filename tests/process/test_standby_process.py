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
from vllm_engine.engine.standby import SCRIPT, spawned
from vllm_engine.engine.standby_process import RECORD
from vllm_engine.system.process_memory import session_pss_bytes

# Two generations of processes as vLLM starts them: in an environment of their own, with a queue and a lock.
MAIN = """
import json, multiprocessing, os, sys

def worker(queue, lock):
    with lock:
        places = [os.environ.get(name) for name in ("PLACES", "PROMETHEUS_MULTIPROC_DIR")]
        queue.put(["worker", os.getpid(), os.getppid(), *places])
    sys.exit(7)

def core(queue, lock):
    os.environ["PLACES"] = "{0,1}"
    one = multiprocessing.get_context("spawn").Process(target=worker, args=(queue, lock))
    one.start()
    one.join()
    queue.put(["core", os.getpid(), os.getppid(), one.exitcode])

def main():
    os.environ["SET_BY_MAIN"] = sys.argv[1]
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = f"/of/{os.getpid()}"  # another at each start, as in vLLM
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


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment with such a `vllm`, and a record."""
    root = tmp_path_factory.mktemp("engine")
    folder = root / "site/vllm/entrypoints/cli"
    folder.mkdir(parents=True)
    for package in (folder, *folder.parents[:2]):
        (package / "__init__.py").touch()
    (folder / "main.py").write_text(MAIN)
    variables = {"PYTHONPATH": str(root / "site"), RECORD: str(root / "spawned"), "TAKEN_AWAY": "1"}
    return variables | {"PATH": os.environ["PATH"]}


@pytest.fixture(scope="module")
def nodes(environ: dict[str, str]) -> list[dict[str, Any]]:
    """What a first start has recorded."""
    command = [sys.executable, "-P", str(SCRIPT), "same"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr
    return spawned(Path(environ[RECORD]), json.loads(done.stdout)["leader"])


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


def go(process: subprocess.Popen[str], link: socket.socket, argument: str) -> tuple[int, int, int]:
    """Have it be the command; returns the pids of leader, core and worker."""
    link.sendall(json.dumps({"arguments": [argument]}).encode() + b"\n")
    assert link.recv(64) == b"going\n"
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 5
    answer = json.loads(output)
    worker, core = answer["said"]
    assert (answer["argv"], answer["status"]) == ([argument], 0)
    assert core == ["core", core[1], answer["leader"], 7]
    assert worker == ["worker", worker[1], core[1], "{0,1}", f"/of/{answer['leader']}"]
    return answer["leader"], core[1], worker[1]


def without_folder(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the variable that differs from start to start, where it is set."""
    (node,) = nodes
    assert node["set"]["PROMETHEUS_MULTIPROC_DIR"].startswith("/of/")
    rest = {name: value for name, value in node["set"].items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    return [node | {"set": rest}]


def child(pid: int) -> int:
    """Return a process's only child."""
    [only] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(only)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_its_processes_are_those_that_waited(environ: dict[str, str], nodes: list[dict[str, Any]]) -> None:
    """With what a first start has recorded, each process of the next one has been there before."""
    worker_node = {"set": {"PLACES": "{0,1}"}, "unset": [], "children": []}
    core_node = {"set": {"SET_BY_MAIN": "same"}, "unset": ["TAKEN_AWAY"], "children": [worker_node]}
    assert without_folder(nodes) == [core_node]
    with standing_by(environ, nodes) as (process, link):
        core = child(process.pid)
        worker = child(core)
        assert session_pss_bytes(os.getsid(process.pid)) > 0
        leader, *others = go(process, link, "same")
    assert others == [core, worker]
    # What it started is recorded for the one after it.
    assert without_folder(spawned(Path(environ[RECORD]), leader)) == [core_node]


@pytest.mark.parametrize(("argument", "is_killed"), [("other", False), ("same", True)])
def test_new_processes_where_those_that_wait_are_of_no_use(
    environ: dict[str, str], nodes: list[dict[str, Any]], argument: str, is_killed: bool
) -> None:
    """One that would have another environment is started as ever, and so is one whose waiting process has died."""
    with standing_by(environ, nodes) as (process, link):
        core = child(process.pid)
        if is_killed:
            os.kill(core, 9)
        assert go(process, link, argument)[1] != core
    assert not runs(core)


def test_nobody_is_left(environ: dict[str, str], nodes: list[dict[str, Any]]) -> None:
    """A standby whose program is gone ends, and so do those that wait below it."""
    with standing_by(environ, nodes) as (process, link):
        core = child(process.pid)
        worker = child(core)
        link.close()
        assert process.wait(30) == 0
    until(lambda: not runs(core) and not runs(worker), "their end")


def test_no_record(tmp_path: Path) -> None:
    """Without a record, or with half of one, there is nothing below the leader."""
    record = tmp_path / "spawned"
    assert spawned(record, 1) == []
    record.write_text('{"pid": 2, "par')
    assert spawned(record, 1) == []
