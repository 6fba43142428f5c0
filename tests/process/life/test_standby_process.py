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

import pytest

from tests.support.program import until
from vllm_engine.engine.process_tree import RECORD, Node, changes, spawned, to_import_with
from vllm_engine.engine.standby import SCRIPT
from vllm_engine.system.process_memory import session_pss_bytes

# Two generations of processes as vLLM starts them: in an environment of their own, with a queue and a lock.
MAIN = """
import json, multiprocessing, os, sys

with open(os.environ["IMPORTED"], "a") as file:
    print(os.getpid(), file=file)

def worker(queue, lock):
    with lock:
        places = [os.environ.get(name) for name in (os.environ["OF_WORKER"], "PROMETHEUS_MULTIPROC_DIR")]
        ours = [number for number in os.listdir("/proc/self/fd") if int(number) >= 400]
        queue.put(["worker", os.getpid(), os.getppid(), ours, *places])
    sys.exit(7)

def core(queue, lock):
    os.environ[os.environ["OF_WORKER"]] = "{0,1}"
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


@pytest.fixture(scope="module", params=["OMP_PLACES", "PLACES"])
def environ(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, str]:
    """An environment with such a `vllm`, and a record; and a variable that only workers have."""
    root = tmp_path_factory.mktemp("engine")
    folder = root / "site/vllm/entrypoints/cli"
    folder.mkdir(parents=True)
    for package in (folder, *folder.parents[:2]):
        (package / "__init__.py").touch()
    (folder / "main.py").write_text(MAIN)
    variables = {"PYTHONPATH": str(root / "site"), RECORD: str(root / "spawned"), "TAKEN_AWAY": "1"}
    own = {"IMPORTED": str(root / "imported"), "OF_WORKER": request.param}
    return variables | own | {"PATH": os.environ["PATH"]}


@pytest.fixture(scope="module")
def nodes(environ: dict[str, str]) -> list[Node]:
    """What a first start has recorded."""
    command = [sys.executable, "-P", str(SCRIPT), "same"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr
    return spawned(Path(environ[RECORD]), json.loads(done.stdout)["leader"])


@contextmanager
def standing_by(
    environ: dict[str, str], nodes: list[Node]
) -> Iterator[tuple[subprocess.Popen[str], socket.socket]]:
    """Run a standby until it is ready."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-P", SCRIPT, "--standby"],
        env=to_import_with(environ, nodes),
        stdin=theirs.fileno(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    theirs.close()
    ours.settimeout(60)
    with ours, process:
        order = {
            "children": nodes,
            "cpus": sorted(os.sched_getaffinity(0)),
            "own": changes(to_import_with(environ, nodes), environ),
            "is_urgent": False,
        }
        ours.sendall(json.dumps(order).encode() + b"\n")
        assert ours.recv(64) == b"ready\n"
        yield process, ours
        process.kill()


def go(
    process: subprocess.Popen[str], link: socket.socket, argument: str, *, says: str = ""
) -> tuple[int, int, int]:
    """Have it be the command, which `says` this on its standard error; returns the pids of leader, core and worker."""
    link.sendall(json.dumps({"arguments": [argument]}).encode() + b"\n")
    assert link.recv(64) == b"going\n"
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors
    assert says in errors if says else not errors
    answer = json.loads(output)
    worker, core = answer["said"]
    assert (answer["argv"], answer["status"]) == ([argument], 0)
    assert core == ["core", core[1], answer["leader"], 7]
    assert worker == ["worker", worker[1], core[1], [], "{0,1}", f"/of/{answer['leader']}"]
    return answer["leader"], core[1], worker[1]


def without_folder(nodes: list[Node]) -> list[Node]:
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


def test_its_processes_are_those_that_waited(environ: dict[str, str], nodes: list[Node]) -> None:
    """With what a first start has recorded, each process of the next one has been there before.

    One imports for all, unless a variable that the imports read is of some processes alone.
    """
    name = environ["OF_WORKER"]
    worker_node = {"set": {name: "{0,1}"}, "unset": [], "children": []}
    core_node = {"set": {"SET_BY_MAIN": "same"}, "unset": ["TAKEN_AWAY"], "children": [worker_node]}
    assert without_folder(nodes) == [core_node]
    imported = Path(environ["IMPORTED"])
    imported.unlink()
    with standing_by(environ, nodes) as (process, link):
        core = child(process.pid)
        worker = child(core)
        assert session_pss_bytes(os.getsid(process.pid)) > 0
        leader, *others = go(process, link, "same")
    assert others == [core, worker]
    expected = {process.pid} if name == "OMP_PLACES" else {process.pid, core, worker}
    assert set(map(int, imported.read_text().split())) == expected
    # What it started is recorded for the one after it.
    assert without_folder(spawned(Path(environ[RECORD]), leader)) == [core_node]


@pytest.mark.parametrize(("argument", "is_killed"), [("other", False), ("same", True)])
def test_new_processes_where_those_that_wait_are_of_no_use(
    environ: dict[str, str], nodes: list[Node], argument: str, is_killed: bool
) -> None:
    """One that would have another environment is started as ever, and so is one whose waiting process has died."""
    with standing_by(environ, nodes) as (process, link):
        core = child(process.pid)
        if is_killed:
            os.kill(core, 9)
        why = "a process that waited has ended" if is_killed else "another SET_BY_MAIN"
        assert go(process, link, argument, says=why)[1] != core
    assert not runs(core)


def test_nobody_is_left(environ: dict[str, str], nodes: list[Node]) -> None:
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
