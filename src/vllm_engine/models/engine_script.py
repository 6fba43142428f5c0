"""Runs a script of `engine_scripts` in the engine's Python and reads its events."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_SCRIPTS = "vllm_engine.models.engine_scripts"
_BOOT = (
    "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_module(sys.argv[2], None, '__main__', True)"
)
"""Our root is last on the path, so that no package beside ours shadows one of the engine's."""

_LONGEST_LINE = 1 << 26  # bytes: the listing of a repository is one line
_STOP_SECONDS = 2.0
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{4,}")

Event = Mapping[str, Any]
"""One line of a script's: `event` is its name."""


class ScriptError(Exception):
    """A script failed.

    Attributes:
        kind: the kind that the script reported; `python`, `silent` or `crashed` if it reported none.
        detail: one line, without tokens.
    """

    def __init__(self, kind: str, detail: str) -> None:
        self.kind = kind
        self.detail = _TOKEN.sub("hf_***", " ".join(detail.split()))
        super().__init__(self.detail)


@dataclass(frozen=True)
class EnginePython:
    """The engine's Python and its environment: cache, token and endpoint are those that vLLM would use."""

    path: Path
    environ: Mapping[str, str] = field(repr=False)  # holds HF_TOKEN

    async def run(
        self,
        script: str,
        request: Mapping[str, object],
        *,
        silence_seconds: float,
        on_event: Callable[[Event], None] = lambda _: None,
    ) -> Any:
        """Run a script and return its result.

        Args:
            script: the module's name within `engine_scripts`.
            request: what it reads from stdin.
            silence_seconds: how long it may print nothing.
            on_event: called with each event but the last, from the event loop.

        Raises:
            ScriptError: it cannot be run, fails, or is silent for too long.
        """
        try:
            child = await asyncio.create_subprocess_exec(
                # -I: neither PYTHONPATH nor the working folder reaches the engine's Python.
                *(str(self.path), "-I", "-c", _BOOT, str(_ROOT), f"{_SCRIPTS}.{script}"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=_LONGEST_LINE,
                env=dict(self.environ),
                start_new_session=True,
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ScriptError("python", f"cannot run the engine's Python, {self.path}: {reason}") from error
        try:
            return await _result(child, request, silence_seconds, on_event)
        finally:
            await _stop(child)


async def _result(
    child: asyncio.subprocess.Process,
    request: Mapping[str, object],
    silence_seconds: float,
    on_event: Callable[[Event], None],
) -> Any:
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("the child has no pipes")
    child.stdin.write(json.dumps(request).encode())
    child.stdin.close()
    last_line = ""
    while True:
        try:
            line = await asyncio.wait_for(child.stdout.readline(), silence_seconds)
        except TimeoutError:
            raise ScriptError("silent", f"no answer in {silence_seconds:g} s") from None
        match _event(line):
            case {"event": "done", "result": result}:
                return result
            case {"event": "error", "kind": str(kind), "detail": str(detail)}:
                raise ScriptError(kind, detail)
            case {"event": str()} as event:
                on_event(event)
            case _ if line:
                last_line = line.decode(errors="replace").strip() or last_line
            case _:
                status = await child.wait()
                how = f"killed by signal {-status}" if status < 0 else f"exited with status {status}"
                raise ScriptError("crashed", f"{how}: {last_line or 'no output'}")


def _event(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


async def _stop(child: asyncio.subprocess.Process) -> None:
    """End the script and whatever it started; it gets a moment to remove its partial files."""
    with suppress(ProcessLookupError):
        if child.returncode is None:
            # Not child.terminate(): that may reap it, and asyncio then does not know how it ended.
            os.kill(child.pid, signal.SIGTERM)
            with suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), _STOP_SECONDS)
        os.killpg(child.pid, signal.SIGKILL)
    # Not just wait(): that leaves the pipe open where reading stopped before its end.
    await child.communicate()
