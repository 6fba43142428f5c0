"""Scripts in the engine's Python: their events and results, how they fail, and that none outlives its caller."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

from tests.support.program import until
from vllm_engine.models import engine_script
from vllm_engine.models.engine_script import EnginePython, Event, ScriptError

PRELUDE = """
import json, os, signal, subprocess, sys, time
def emit(event, **fields): print(json.dumps({"event": event, **fields}), flush=True)
request = json.load(sys.stdin)
"""

Run = Callable[..., Coroutine[Any, Any, object]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a test's own script, which knows `request` and `emit`."""
    (tmp_path / "scripts").mkdir()
    monkeypatch.setattr(engine_script, "_ROOT", tmp_path)
    monkeypatch.setattr(engine_script, "_SCRIPTS", "scripts")
    python = EnginePython(Path(sys.executable), {"HF_TOKEN": "hf_abcdef"})

    def run(body: str, on_event: Any = lambda _: None, silence: float = 20) -> Coroutine[Any, Any, object]:
        (tmp_path / "scripts/own.py").write_text(PRELUDE + dedent(body))
        return python.run("own", {"x": 1}, silence_seconds=silence, on_event=on_event)

    return run


async def test_events_and_result(run: Run) -> None:
    """The token comes in the environment, not in the arguments."""
    seen: list[Event] = []
    body = """
        print("a library's chatter", file=sys.stderr, flush=True)
        emit("progress", done=request["x"])
        emit("done", result=[os.environ["HF_TOKEN"], len(sys.argv)])
    """
    assert await run(body, seen.append) == ["hf_abcdef", 3]
    assert seen == [{"event": "progress", "done": 1}]
    assert "hf_" not in repr(EnginePython(Path("python"), {"HF_TOKEN": "hf_abcdef"}))


@pytest.mark.parametrize(
    ("body", "kind", "detail"),
    [
        ("emit('error', kind='gated', detail='not for hf_abcdef'); print()", "gated", "not for hf_***"),
        ("raise KeyError('x')", "crashed", "exited with status 1: KeyError: 'x'"),
        ("sys.exit(3)", "crashed", "exited with status 3: no output"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crashed", "killed by signal 9: no output"),
        ("time.sleep(60)", "silent", "no answer in 1 s"),
    ],
)
async def test_failures(run: Run, body: str, kind: str, detail: str) -> None:
    with pytest.raises(ScriptError) as caught:
        await run(body, silence=1 if kind == "silent" else 20)
    assert (caught.value.kind, caught.value.detail) == (kind, detail)


async def test_the_watcher_of_children_is_not_cheated(caplog: pytest.LogCaptureFixture) -> None:
    """Asyncio alone reaps a script that has ended when it is to be stopped: no "Unknown child process pid"."""
    if sys.version_info < (3, 12):  # the newer versions' watcher, which cannot win the race by chance
        watcher = asyncio.PidfdChildWatcher()
        watcher.attach_loop(asyncio.get_running_loop())
        asyncio.set_child_watcher(watcher)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "", stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - so the loop has not seen it
    await engine_script._stop(child)
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(None)  # type: ignore[arg-type]
    assert (child.returncode, caplog.text) == (0, "")


async def test_no_python(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"cannot run the engine's Python, .*: No such file"):
        await EnginePython(tmp_path / "none", {}).run("hub_client", {}, silence_seconds=1)


async def test_cancelling_ends_the_whole_group(run: Run) -> None:
    started = asyncio.get_running_loop().create_future()
    body = """
        grandchild = subprocess.Popen(["sleep", "60"])
        emit("pids", own=os.getpid(), grandchild=grandchild.pid)
        time.sleep(60)
    """
    task = asyncio.create_task(run(body, started.set_result))
    pids = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not psutil.pid_exists(pids["own"])
    # Whoever has adopted the other reaps it in its own time.
    until(lambda: not is_running(pids["grandchild"]), "the end of both")


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
