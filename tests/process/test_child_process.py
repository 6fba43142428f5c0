"""The child's mechanics, with real children: output, signals, groups, and what outlives us."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.program import DEADLINE, TELLS_EXIT_STATUS, is_running
from vllm_engine.engine.child_process import MAX_LINE_CHARS, TAIL_LINES, EngineProcess
from vllm_engine.engine.watchdog.child_watcher import ChildWatcher, children_state
from vllm_engine.system.shortage import is_own_shortage


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - other processes tell nobody
            await asyncio.sleep(0.02)


def alive(pid: str) -> bool:
    """Whether a process is there and no zombie."""
    return psutil.pid_exists(int(pid)) and is_running(psutil.Process(int(pid)))


async def spawn(code: str, lines: list[str]) -> EngineProcess:
    """Run Python code as the engine."""
    argv = [sys.executable, "-u", "-c", code]
    return await EngineProcess.spawn(argv, dict(os.environ), on_line=lines.append, cwd=Path.cwd())


async def test_output_and_exit_status() -> None:
    """Both streams arrive line by line, long lines cut; the status is told; the child has a session of its own."""
    lines: list[str] = []
    code = (
        "import os, sys; print(os.getsid(0) == os.getpid() != os.getsid(os.getppid()))\n"
        "print('b\\rc', file=sys.stderr)\n"
        "os.write(1, b'x' * 1000000 + b'\\n' + b'\\xff\\n' + b'y\\n' * 5000); print('d', end=''); sys.exit(7)"
    )
    process = await spawn(code, lines)
    assert (await process.wait(), await process.reap()) == (7, 7)
    assert (lines[:3], lines[-1]) == (["True", "b", "c"], "d")
    assert max(map(len, lines)) <= MAX_LINE_CHARS
    assert "\ufffd" in lines
    assert lines.count("y") == 5000
    assert process.tail == tuple(lines[-TAIL_LINES:])


async def test_stop_is_gentle_first() -> None:
    """SIGTERM lets the child end by itself."""
    lines: list[str] = []
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); print('up'); signal.pause()"
    process = await spawn(code, lines)
    await eventually(lambda: "up" in lines)
    assert await process.stop(grace_seconds=DEADLINE) == 3


async def test_stop_kills_what_does_not_listen() -> None:
    """A child that ignores SIGTERM is killed after the grace, with everything that it started."""
    lines: list[str] = []
    code = (
        "import os, signal; signal.signal(15, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "os.write(1, b'%d\\n' % os.getpid()); signal.pause()"
    )
    process = await spawn(code, lines)
    await eventually(lambda: len(lines) == 2)
    assert await process.stop(grace_seconds=0.2) == -signal.SIGKILL
    await eventually(lambda: not any(map(alive, lines)))


async def test_reap_ends_what_the_leader_left() -> None:
    """When the leader dies, its children do not stay behind."""
    lines: list[str] = []
    code = (
        "import os, signal\n"
        "ready, told = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    signal.signal(15, signal.SIG_IGN); print(os.getpid()); os.write(told, b'x'); signal.pause()\n"
        "os.read(ready, 1); os._exit(1)"
    )
    process = await spawn(code, lines)
    assert await process.wait() == 1
    await process.reap()
    await eventually(lambda: len(lines) == 1 and not alive(lines[0]))


async def test_an_orphan_that_keeps_the_output() -> None:
    """A process outside the group does not keep the engine from being reaped, however often, and no file stays."""
    before, lines = psutil.Process().num_fds(), list[str]()
    code = "import os, signal\nif os.fork() == 0: os.setsid(); print(os.getpid())\nsignal.pause()"
    process = await spawn(code, lines)
    await eventually(lambda: bool(lines))
    try:
        ends = [await process.reap(), await process.reap(), await process.stop(DEADLINE)]
        assert (ends, alive(lines[0])) == ([-signal.SIGKILL] * 3, True)
        assert psutil.Process().num_fds() == before
    finally:
        os.kill(int(lines[0]), signal.SIGKILL)


async def test_command_that_is_not_there() -> None:
    """A missing program is a line and an exit status, like any death at the start."""
    lines: list[str] = []
    process = await EngineProcess.spawn(["/no/such/python"], {}, on_line=lines.append, cwd=Path.cwd())
    assert await process.wait() == 1
    await process.reap()
    assert lines == ["cannot start /no/such/python: No such file or directory"]


@pytest.mark.parametrize("what", ["process", "thread"])
async def test_for_want_of_processes(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Where the kernel gives none, it is said as the kernel says it, and nothing is left."""

    def no_process(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    me = psutil.Process()
    before, children = me.num_fds(), me.children()
    if what == "process":
        monkeypatch.setattr(subprocess, "Popen", no_process)
    else:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(OSError, match=r"no more|can't start") as failed:
        await spawn("import signal; signal.pause()", [])
    assert is_own_shortage(failed.value)
    await eventually(lambda: me.num_fds() == before)
    assert me.children() == children


async def test_dies_with_us() -> None:
    """If our program is killed outright, the kernel ends the engine."""
    code = """
import asyncio, os, sys
from pathlib import Path
from vllm_engine.engine.child_process import EngineProcess
async def main():
    child = "import os, signal; print(os.getpid()); signal.pause()"
    def tell(line): print(line, flush=True)
    await EngineProcess.spawn([sys.executable, "-u", "-c", child], dict(os.environ), on_line=tell, cwd=Path("/"))
    await asyncio.Event().wait()
asyncio.run(main())
"""
    ours = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert ours.stdout is not None
    engine = (await asyncio.wait_for(ours.stdout.readline(), DEADLINE)).decode()
    assert alive(engine)
    ours.kill()
    await ours.communicate()
    await eventually(lambda: not alive(engine))


@pytest.mark.parametrize("is_collected", [True, False])
async def test_children_are_watched(tmp_path: Path, is_collected: bool) -> None:
    """The state of those whom vLLM has given a name is known, and the end of one is noticed: whose, and by which signal.

    Its whole title is told, of which Linux keeps 15 characters as the name. vLLM may collect its status at once,
    or late: the kernel tells it all the same.
    """
    lines: list[str] = []
    named = tmp_path / "VLLM::EngineCore"
    named.symlink_to("/bin/sleep")
    code = (
        "import os, signal\n"
        "core = os.fork()\n"
        f"if not core: os.execv({str(named)!r}, ['VLLM::EngineCore_DP0   ', '1000'])\n"
        "print(core)\n"
        f"if {is_collected}: os.wait()\n"
        "signal.pause()"
    )
    process = await spawn(code, lines)
    await eventually(lambda: bool(lines) and children_state(process.pid) is not None)
    core, watcher = int(lines[0]), ChildWatcher(process.pid)
    noticed = asyncio.create_task(watcher.first_loss())
    await asyncio.sleep(0)  # it looks at the processes as soon as it runs
    os.kill(core, signal.SIGSTOP)

    def is_stopped() -> bool:
        state = children_state(process.pid)
        return state is not None and state.is_stopped and not state.is_running

    await eventually(is_stopped)
    assert not noticed.done()
    os.kill(core, signal.SIGKILL)
    end = str(await asyncio.wait_for(noticed, DEADLINE)).removeprefix(
        f"VLLM::EngineCore_DP0 (process {core}) "
    )
    assert end == "was killed by SIGKILL" or (end == "exited" and is_collected and not TELLS_EXIT_STATUS)
    watcher.close()
    assert children_state(process.pid) is None
    await process.reap()


async def test_a_worker_on_a_cpu_shows_the_work_that_its_core_waits_for() -> None:
    """Not so on a GPU, where a worker that waits is as busy."""
    lines: list[str] = []
    name = "import ctypes; ctypes.CDLL(None).prctl(15, b'{}', 0, 0, 0); "
    code = (
        "import os, signal\n"
        "leader = os.getpid()\n"
        f"if not os.fork(): {name.format('VLLM::EngineCor')}signal.pause()\n"
        f"if not os.fork(): {name.format('VLLM::Worker_TP')}print(1, flush=True); exec('while os.getppid() == leader: pass')\n"
        "signal.pause()"
    )
    process = await spawn(code, lines)
    await eventually(lambda: bool(lines) and children_state(process.pid) is not None)

    def worked(*, on_cpu: bool) -> bool:
        state = children_state(process.pid, on_cpu=on_cpu)
        return state is not None and state.is_running and state.cpu_seconds > 0.1

    await eventually(lambda: worked(on_cpu=True))
    assert not worked(on_cpu=False)
    await process.reap()
