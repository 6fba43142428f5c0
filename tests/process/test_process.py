"""The child's mechanics, with real children: output, signals, groups, and what outlives us."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from vllm_engine.engine.child_process import MAX_LINE_CHARS, TAIL_LINES, EngineProcess
from vllm_engine.engine.engine_exit import describe_exit
from vllm_engine.system.shortage import is_own_shortage

DEADLINE = 10.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fails when it does not in time."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def spawn(code: str, lines: list[str]) -> EngineProcess:
    """Run Python code as the engine."""
    argv = [sys.executable, "-u", "-c", code]
    return await EngineProcess.spawn(argv, dict(os.environ), on_line=lines.append, cwd=Path.cwd())


async def test_output_and_exit_status() -> None:
    """Both streams arrive line by line, the last without its line end, and the status is told."""
    lines: list[str] = []
    process = await spawn(
        "import sys; print('a'); print('b\\rc', file=sys.stderr); print('d', end=''); sys.exit(7)", lines
    )
    assert await process.wait() == 7
    assert await process.reap() == 7
    assert lines == ["a", "b", "c", "d"]
    assert process.tail == ("a", "b", "c", "d")


async def test_wild_output_stays_bounded() -> None:
    """Long lines are cut, bytes that are no text are shown as such, and the tail does not grow."""
    lines: list[str] = []
    code = "import os; os.write(1, b'x' * 1000000 + b'\\n' + b'\\xff\\n' + b'y\\n' * 5000)"
    process = await spawn(code, lines)
    await process.wait()
    await process.reap()
    assert max(map(len, lines)) <= MAX_LINE_CHARS
    assert "\ufffd" in lines
    assert lines.count("y") == 5000
    assert len(process.tail) == TAIL_LINES


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
        "import os, signal, time; signal.signal(15, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "os.write(1, b'%d\\n' % os.getpid()); time.sleep(600)"
    )
    process = await spawn(code, lines)
    await eventually(lambda: len(lines) == 2)
    assert await process.stop(grace_seconds=0.2) == -signal.SIGKILL
    await eventually(lambda: not any(alive(int(pid)) for pid in lines))


async def test_reap_ends_what_the_leader_left() -> None:
    """When the leader dies, its children do not stay behind."""
    lines: list[str] = []
    code = (
        "import os, signal, time\n"
        "if os.fork() == 0: signal.signal(15, signal.SIG_IGN); print(os.getpid()); time.sleep(600)\n"
        "time.sleep(0.5); os._exit(1)"
    )
    process = await spawn(code, lines)
    assert await process.wait() == 1
    await process.reap()
    await eventually(lambda: len(lines) == 1 and not alive(int(lines[0])))


async def test_command_that_is_not_there() -> None:
    """A missing program is a line and an exit status, like any death at the start."""
    lines: list[str] = []
    process = await EngineProcess.spawn(
        ["/no/such/python"], dict(os.environ), on_line=lines.append, cwd=Path.cwd()
    )
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
    before = me.num_fds()
    if what == "process":
        monkeypatch.setattr(subprocess, "Popen", no_process)
    else:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(OSError, match=r"no more|can't start") as failed:
        await spawn("import time; time.sleep(600)", [])
    assert is_own_shortage(failed.value)
    await eventually(lambda: me.num_fds() == before)
    assert not me.children()


async def test_own_session() -> None:
    """Ctrl-C at our terminal does not reach the child: it is in a session of its own."""
    lines: list[str] = []
    process = await spawn("import os; print(os.getsid(0) == os.getpid() != os.getsid(os.getppid()))", lines)
    await process.wait()
    await process.reap()
    assert lines == ["True"]


async def test_dies_with_us(tmp_path: Path) -> None:
    """If our program is killed outright, the kernel ends the engine."""
    code = """
import asyncio, os, sys
from pathlib import Path
from vllm_engine.engine.child_process import EngineProcess
async def main():
    child = "import os, time; print(os.getpid()); time.sleep(600)"
    def tell(line): print(line, flush=True)
    await EngineProcess.spawn([sys.executable, "-u", "-c", child], dict(os.environ), on_line=tell, cwd=Path("/"))
    await asyncio.sleep(600)
asyncio.run(main())
"""
    ours = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert ours.stdout is not None
    engine = int(await asyncio.wait_for(ours.stdout.readline(), DEADLINE))
    assert alive(engine)
    ours.kill()
    await ours.communicate()
    await eventually(lambda: not alive(engine))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
    ],
)
def test_describe_exit(status: int, words: str) -> None:
    """A signal is named."""
    assert describe_exit(status) == words
