"""Runs in the engine's Python: vLLM's command, run at once or by a standby that waits to become it.

`python -P standby_process.py serve MODEL ...` is `python -P -m vllm.entrypoints.cli.main serve MODEL ...`,
and records the environments in which vLLM starts processes of its own.

`python -P standby_process.py --standby` starts as many processes, each in the environment that was recorded
for it, has all of them import vLLM in threads of low priority, and waits on its standard input for the
arguments. It then is the engine. Each process that vLLM starts is one of those that wait if it has the same
environment; else it is a new one.

vLLM itself is not changed. What is replaced is the function by which multiprocessing starts a Python
(`multiprocessing.util.spawnv_passfds`); it does what it always did whenever anything is not as expected.
With vLLM's `fork` there is nothing to replace.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import util
from pathlib import Path
from typing import Any, NoReturn

RECORD = "ENGINE_SPAWN_RECORD"
"""The variable that names the file to which every process that vLLM starts is appended, as JSON lines."""

_MAIN = "vllm.entrypoints.cli.main"
_BOTH = "vllm_engine.engine.both_frontends.both"
_IMPORTS = (
    _MAIN,
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.cli.openai",
    "vllm.entrypoints.cli.benchmark.main",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
)
"""What every start imports, as far as this vLLM has it. None of these creates a CUDA context."""
_WORKERS = {"cpu": "vllm.v1.worker.cpu_worker", "cuda": "vllm.v1.worker.gpu_worker"}

_SET_ANEW = "PROMETHEUS_MULTIPROC_DIR"
"""A variable that vLLM gives a new value at each start with several API servers. Its imports only look
whether it is set."""

_PR_SET_PDEATHSIG = 1
_LOW_PRIORITY = 19
_FIRST_DESCRIPTOR = 400
"""Our descriptors are moved above those that vLLM's processes pass to each other."""
_ANSWER_SECONDS = 2.0
_MAX_MESSAGE = 1 << 16

_environ = os.environ  # noqa: TID251 - this is the engine's process, not ours
_initial = dict(_environ)
_start_new = util.spawnv_passfds


class Waiting:
    """A process that waits to be one of vLLM's."""

    def __init__(self, node: dict[str, Any]) -> None:
        """Start it in the environment of `node`, with the child processes of `node`."""
        self.environ = {**_initial, **node["set"]}
        for name in node["unset"]:
            self.environ.pop(name, None)
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        number = _above(theirs.detach())
        os.set_inheritable(number, True)
        script = str(Path(__file__).absolute())
        argv = [sys.executable, "-P", script, "--child", str(number), str(os.getpid())]
        try:
            self.pid = os.posix_spawn(sys.executable, argv, self.environ)
        finally:
            os.close(number)
        self._link.send(json.dumps(node["children"]).encode())

    def until_ready(self) -> None:
        """Wait until it and its children have imported everything; raises OSError if one has ended."""
        if self._link.recv(64) != b"ready":
            raise OSError("a waiting process has ended")

    def take(self, argv: Sequence[str], descriptors: Sequence[int]) -> bool:
        """Have it run `argv` with these descriptors; False if it cannot."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        order = {
            "argv": argv,
            "descriptors": descriptors,
            "cwd": str(Path.cwd()),
            "files": limits,
            "set": {_SET_ANEW: _environ[_SET_ANEW]} if _SET_ANEW in _environ else {},
        }
        self._link.settimeout(_ANSWER_SECONDS)
        try:
            socket.send_fds(self._link, [json.dumps(order).encode()], list(descriptors))
            return self._link.recv(64) == b"taken"
        except OSError:
            return False
        finally:
            self._link.close()

    def end(self) -> None:
        """Kill it and collect its status."""
        self._link.close()
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


_waiting: list[Waiting] = []


def start_process(path: Any, args: Sequence[Any], descriptors: Sequence[int]) -> int:
    """Replace `multiprocessing.util.spawnv_passfds`; returns the process id."""
    argv = [os.fsdecode(arg) for arg in args]
    if "--multiprocessing-fork" not in argv:
        return _start_new(path, args, descriptors)
    pid = None
    if os.fsdecode(path) == sys.executable:
        pid = _taken(argv, sorted(set(map(int, descriptors))))
    if pid is None:
        # This start differs from the one that those who still wait were made for.
        while _waiting:
            _waiting.pop().end()
        pid = int(_start_new(path, args, descriptors))
    _note(pid)
    return pid


def _taken(argv: list[str], descriptors: list[int]) -> int | None:
    environ = _comparable(_environ)
    for one in [one for one in _waiting if _comparable(one.environ) == environ]:
        _waiting.remove(one)
        if one.take(argv, descriptors):
            return one.pid
        one.end()
    return None


def _comparable(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name != _SET_ANEW}


def _note(pid: int) -> None:
    """Record how the environment of a process that was just started differs from our initial one."""
    path = _initial.get(RECORD)
    if not path:
        return
    now = dict(_environ)
    note = {
        "pid": pid,
        "parent": os.getpid(),
        "set": {name: value for name, value in now.items() if _initial.get(name) != value},
        "unset": sorted(_initial.keys() - now.keys()),
    }
    with contextlib.suppress(OSError), Path(path).open("ab", 0) as record:
        record.write(json.dumps(note).encode() + b"\n")


def run_vllm(arguments: Sequence[str]) -> NoReturn:
    """Be `python -m vllm.entrypoints.cli.main ARGUMENTS`, or the launcher of both frontends."""
    if arguments[:1] == ["both"]:
        sys.path.append(str(Path(__file__).parents[2]))
        sys.exit(importlib.import_module(_BOTH).main(arguments))
    main = importlib.import_module(_MAIN)
    sys.argv = [str(main.__file__), *arguments]
    sys.exit(main.main())


def stand_by() -> NoReturn:
    """Import everything, say so on the socket at standard input, wait there for arguments, and run vLLM."""
    link = socket.socket(fileno=_above(os.dup(0)))
    with Path(os.devnull).open("rb") as null:
        os.dup2(null.fileno(), 0)
    with link, link.makefile("rb") as orders:
        # Without a line whoever would have told us is gone.
        _prepare(json.loads(orders.readline() or os._exit(0)), lambda: link.sendall(b"ready\n"))
        order = json.loads(orders.readline() or os._exit(0))
        link.sendall(b"going\n")
    run_vllm(order["arguments"])


def wait_as_child(number: int, parent: int) -> NoReturn:
    """Do the same for a child process of vLLM's: run what multiprocessing would have started."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    link = socket.socket(fileno=number)
    os.set_inheritable(number, False)
    _prepare(json.loads(link.recv(_MAX_MESSAGE)), lambda: link.send(b"ready"))
    message, received, _, _ = socket.recv_fds(link, _MAX_MESSAGE, 253)
    if not message:
        os._exit(0)
    order = json.loads(message)
    if not _placed(received, order["descriptors"]):
        link.send(b"refused")
        os._exit(1)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, tuple(order["files"]))
    os.chdir(order["cwd"])
    _environ.update(order["set"])
    _initial.update(order["set"])
    link.send(b"taken")
    link.close()
    argv: list[str] = order["argv"]
    code = argv.index("-c") + 1
    sys.argv = ["-c", *argv[code + 1 :]]
    exec(argv[code], {"__name__": "__main__"})  # noqa: S102 - what multiprocessing itself has `python -c` run
    sys.exit(0)


def _prepare(nodes: list[dict[str, Any]], tell: Callable[[], object]) -> None:
    _waiting.extend(map(Waiting, nodes))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_import_all).result()
    for one in _waiting:
        one.until_ready()
    tell()


def _import_all() -> None:
    # A thread's priority is its own, in Linux. That of a whole process could not be raised again without a
    # privilege that containers lack.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY)
    worker = _WORKERS["cpu" if _environ.get("VLLM_TARGET_DEVICE") == "cpu" else "cuda"]
    for name in (*_IMPORTS, worker):
        with contextlib.suppress(ModuleNotFoundError):  # another version of vLLM
            importlib.import_module(name)


def _placed(received: Sequence[int], wanted: Sequence[int]) -> bool:
    """Move descriptors to the numbers that they have in the parent; False if one of these is in use here."""
    if len(received) != len(wanted):
        return False
    moved = [_above(number) for number in received]
    if any(Path(f"/proc/self/fd/{number}").exists() for number in wanted):
        return False
    for number, place in zip(moved, wanted, strict=True):
        os.dup2(number, place)
        os.close(number)
    return True


def _above(number: int) -> int:
    """Move a descriptor above `_FIRST_DESCRIPTOR`."""
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    os.close(number)
    return moved


if __name__ in ("__main__", "__mp_main__"):  # in the engine, and in each process that vLLM starts
    util.spawnv_passfds = start_process  # type: ignore[assignment]

if __name__ == "__main__":
    if sys.argv[1:2] == ["--standby"]:
        stand_by()
    elif sys.argv[1:2] == ["--child"]:
        wait_as_child(int(sys.argv[2]), int(sys.argv[3]))
    else:
        run_vllm(sys.argv[1:])
