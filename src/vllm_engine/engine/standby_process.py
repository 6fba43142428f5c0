"""Runs in the engine's Python: vLLM's command, run at once or by a process that waits to become it.

`python -P standby_process.py serve MODEL ...` is `python -P -m vllm.entrypoints.cli.main serve MODEL ...`,
and records the environments in which vLLM starts processes of its own.

`python -P standby_process.py --standby` imports vLLM, forks the processes that were recorded, and waits on
its standard input for the arguments. It then is the engine. Each process that vLLM starts is one of those
that wait if it would have imported alike (see `process_tree.py`); else it is a new one. A process for which
that is known not to hold, such as a second worker with CPUs of its own, is not forked: it is started before
the imports, and imports by itself meanwhile.

vLLM itself is not changed. What is replaced is the function by which multiprocessing starts a Python
(`multiprocessing.util.spawnv_passfds`); it does what it always did whenever anything is not as expected.
With vLLM's `fork` there is nothing to replace.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import util
from pathlib import Path
from typing import IO, Any, NoReturn

sys.path.append(str(Path(__file__).parents[2]))
from vllm_engine.engine import process_tree as tree

sys.path.pop()  # nothing of ours is found by vLLM

_MAIN = "vllm.entrypoints.cli.main"
_BOTH = "vllm_engine.engine.both_frontends.both"
_IMPORTS = (
    _MAIN,
    *("vllm.entrypoints.cli.serve", "vllm.entrypoints.cli.openai", "vllm.entrypoints.cli.benchmark.main"),
    "vllm.entrypoints.openai.api_server",
    *("vllm.v1.engine.async_llm", "vllm.v1.engine.core", "vllm.v1.executor.multiproc_executor"),
    # What these import only when they run:
    *("vllm.v1.core.sched.scheduler", "model_hosting_container_standards.sagemaker"),
    "vllm.entrypoints.openai.responses.api_router",
    "vllm.entrypoints.generate.structured_decisions.api_router",
)
"""What every start imports, as far as this vLLM has it. None of these creates a CUDA context."""
_WORKERS = {"cpu": "vllm.v1.worker.cpu_worker", "cuda": "vllm.v1.worker.gpu_worker"}

_PR_SET_PDEATHSIG = 1
_LOW_PRIORITY = 19
_FIRST_DESCRIPTOR = 400
"""Our descriptors are moved above those that vLLM's processes pass to each other."""
_ANSWER_SECONDS = 2.0
_MAX_MESSAGE = 1 << 16

_environ = os.environ  # noqa: TID251 - this is the engine's process, not ours
_base = dict(_environ)
"""What this process began with, imports included: what vLLM changes beyond that is recorded."""
_start_new = util.spawnv_passfds
_bound_to = os.sched_getaffinity(0)
"""The CPUs to which OpenMP's library has bound this thread when it was loaded."""


class Waiting:
    """A process that waits to be one of vLLM's."""

    def __init__(self, node: tree.Node, *, is_forked: bool, is_urgent: bool) -> None:
        """Start it, by a fork of this process or in the environment of `node`."""
        self.environ = dict(_environ)
        self.link, theirs = map(_moved, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        parent, cpus = os.getpid(), sorted(os.sched_getaffinity(0))
        with theirs:
            if is_forked:
                self.pid = os.fork()
                if not self.pid:
                    self.link.close()
                    _be_forked(theirs, parent, node)
                return
            tree.change(self.environ, tree.own_changes(node))
            os.set_inheritable(theirs.fileno(), True)
            script = str(Path(__file__).absolute())
            argv = [sys.executable, "-P", script, "--child", str(theirs.fileno()), str(parent)]
            self.pid = os.posix_spawn(sys.executable, argv, self.environ)
        self.link.send(
            json.dumps({"children": node["children"], "cpus": cpus, "is_urgent": is_urgent}).encode()
        )

    def until_ready(self) -> None:
        """Wait until it and its children have imported everything; raises OSError if one has ended."""
        said = self.link.recv(_MAX_MESSAGE)
        if not said:
            raise OSError("a waiting process has ended")
        tree.change(self.environ, json.loads(said))

    def take(self, argv: Sequence[str], descriptors: Sequence[int]) -> bool:
        """Have it run `argv` with these descriptors; False if it cannot."""
        order = {
            "argv": argv,
            "descriptors": descriptors,
            "cwd": str(Path.cwd()),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "cpus": sorted(os.sched_getaffinity(0)),
            "environ": tree.changes(self.environ, _environ),
        }
        self.link.settimeout(_ANSWER_SECONDS)
        try:
            socket.send_fds(self.link, [json.dumps(order).encode()], list(descriptors))
            return self.link.recv(64) == b"taken"
        except OSError:
            return False
        finally:
            self.link.close()

    def end(self) -> None:
        """Kill it and collect its status."""
        self.link.close()
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


_waiting: list[Waiting] = []
_not_for_forks: list[IO[bytes] | socket.socket] = []


def start_process(path: Any, args: Sequence[Any], descriptors: Sequence[int]) -> int:
    """Replace `multiprocessing.util.spawnv_passfds`; returns the process id."""
    argv = [os.fsdecode(arg) for arg in args]
    if "--multiprocessing-fork" not in argv:
        return _start_new(path, args, descriptors)
    pid, waited = None, list(_waiting)
    if os.fsdecode(path) == sys.executable:
        pid = _taken(argv, sorted(set(map(int, descriptors))))
    if pid is None:
        # This start differs from the one that those who still wait were made for.
        if waited:
            needed = ", ".join(tree.imported_otherwise(waited[0].environ, _environ))
            why = f"a process needs another {needed}" if needed else "a process that waited has ended"
            sys.stderr.write(f"vLLM is imported once more: {why}\n")
        while _waiting:
            _waiting.pop().end()
        pid = int(_start_new(path, args, descriptors))
    _note(pid)
    return pid


def _taken(argv: list[str], descriptors: list[int]) -> int | None:
    for one in [one for one in _waiting if not tree.imported_otherwise(one.environ, _environ)]:
        _waiting.remove(one)
        if one.take(argv, descriptors):
            return one.pid
        one.end()
    return None


def _note(pid: int) -> None:
    """Record what vLLM has changed in the environment of a process that was just started."""
    path = _base.get(tree.RECORD)
    if path:
        line = tree.note(pid, os.getpid(), tree.changes(_base, _environ))
        with contextlib.suppress(OSError), Path(path).open("ab", 0) as record:
            record.write(line.encode())


def run_vllm(arguments: Sequence[str]) -> NoReturn:
    """Be `python -m vllm.entrypoints.cli.main ARGUMENTS`, or the launcher of both frontends."""
    if arguments[:1] == ["both"]:
        sys.path.append(root := str(Path(__file__).parents[2]))
        both = importlib.import_module(_BOTH)
        sys.path.remove(root)  # the gateway's packages, which may be beside ours, are not for vLLM
        sys.exit(both.main(arguments))
    main = importlib.import_module(_MAIN)
    sys.argv = [str(main.__file__), *arguments]
    sys.exit(main.main())


def stand_by() -> NoReturn:
    """Import everything, say so on the socket at standard input, wait there for arguments, and run vLLM."""
    link = _moved(socket.socket(fileno=os.dup(0)))
    with Path(os.devnull).open("rb") as null:
        os.dup2(null.fileno(), 0)
    with link, link.makefile("rb") as orders:
        _not_for_forks.extend((orders, link))
        # Without a line whoever would have told us is gone.
        first = json.loads(orders.readline() or os._exit(0))
        os.sched_setaffinity(0, first["cpus"])
        _prepare(first["children"], is_urgent=first["is_urgent"])
        _goes_on_with(first["own"])
        link.sendall(b"ready\n")
        order = json.loads(orders.readline() or os._exit(0))
        link.sendall(b"going\n")
    run_vllm(order["arguments"])


def wait_as_child(number: int, parent: int) -> NoReturn:
    """Import everything in a new process, and be what multiprocessing would have started."""
    link = socket.socket(fileno=number)
    _not_for_forks.append(link)
    os.set_inheritable(number, False)
    _ends_with(parent)
    told = json.loads(link.recv(_MAX_MESSAGE))
    os.sched_setaffinity(0, told["cpus"])
    before = dict(_environ)
    _prepare(told["children"], is_urgent=told["is_urgent"])
    _wait_for_order(link, tree.changes(before, _environ))


def _be_forked(link: socket.socket, parent: int, node: tree.Node) -> NoReturn:
    """Be the same as a fork of a process that has imported everything."""
    _ends_with(parent)
    while _waiting:
        _waiting.pop().link.close()
    while _not_for_forks:
        _not_for_forks.pop().close()
    _not_for_forks.append(link)
    if "numpy" in sys.modules:
        # As in a new process; Python's own generator sees to that by itself.
        sys.modules["numpy"].random.seed()
    _fork(node["children"])
    _wait_for_order(link, {})


def _ends_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _wait_for_order(link: socket.socket, imported: tree.Changes) -> NoReturn:
    """Say what the imports have changed, and run what multiprocessing would have started."""
    link.send(json.dumps(imported).encode())
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
    _goes_on_with(order["environ"])
    has_openmp = any(name.startswith(tree.OPENMP) for name in _environ)
    os.sched_setaffinity(0, _bound_to if has_openmp else order["cpus"])
    link.send(b"taken")
    link.close()
    argv: list[str] = order["argv"]
    code = argv.index("-c") + 1
    sys.argv = ["-c", *argv[code + 1 :]]
    exec(argv[code], {"__name__": "__main__"})  # noqa: S102 - what multiprocessing itself has `python -c` run
    sys.exit(0)


def _goes_on_with(changes: tree.Changes) -> None:
    """Change the environment after the imports."""
    tree.change(_environ, changes)
    _begins_here()
    if any(name.startswith(tree.OPENMP) for name in changes) and "torch" in sys.modules:
        # OpenMP's library would still bind each thread that computes to the worker's first CPU.
        sys.modules["torch"].set_num_threads(1)


def _begins_here() -> None:
    _base.clear()
    _base.update(_environ)


def _prepare(nodes: Sequence[tree.Node], *, is_urgent: bool) -> None:
    apart = [node for node in nodes if tree.imports_apart(node, _environ)]
    _waiting.extend(Waiting(node, is_forked=False, is_urgent=is_urgent) for node in apart)
    cpus = os.sched_getaffinity(0)
    if is_urgent:
        _import_all()
    else:
        with ThreadPoolExecutor(1) as pool:
            # A thread's priority is its own, in Linux. That of a whole process could not be raised again
            # without a privilege that containers lack.
            pool.submit(lambda: os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOW_PRIORITY))
            pool.submit(_import_all).result()
    # OpenMP's library binds the thread that loads it; a wheel may have brought one of its own.
    os.sched_setaffinity(0, cpus)
    gc.freeze()  # forks share what is not looked at
    _fork([node for node in nodes if node not in apart])


def _fork(nodes: Sequence[tree.Node]) -> None:
    sys.stdout.flush()
    for node in nodes:
        _waiting.append(Waiting(node, is_forked=True, is_urgent=False))  # noqa: PERF401 - forks see those before
    for one in _waiting:
        one.until_ready()


def _import_all() -> None:
    # Nothing that is imported is garbage soon, and looking for it takes a fifth of the time.
    gc.disable()
    worker = _WORKERS["cpu" if _environ.get("VLLM_TARGET_DEVICE") == "cpu" else "cuda"]
    for name in (*_IMPORTS, worker):
        # Another version of vLLM, or one that lacks something: if it needs that, it says so itself.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.enable()


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


def _moved(link: socket.socket) -> socket.socket:
    return socket.socket(fileno=_above(link.detach()))


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
        _import_all()
        _begins_here()
        run_vllm(sys.argv[1:])
