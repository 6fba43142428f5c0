"""The models whose weights come as a Python package, so that a first start needs no hub and no download."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vllm_engine.models.engine_scripts import convert_gguf
from vllm_engine.models.engine_scripts.convert_gguf import SOURCES, is_intact

__all__ = [
    "BundledModelError",
    "ConvertProgress",
    "bundled_names",
    "bundled_path",
    "ensure_bundled",
    "is_bundled",
    "is_intact",
]

_PREFIX: Final = "bundled:"
_CONVERTER: Final = Path(convert_gguf.__file__)
_LONGEST_LINE: Final = 1 << 20  # bytes; far beyond any event, so that only a broken child reaches it


class BundledModelError(Exception):
    """A bundled model cannot be had; the message is one line and says what to do."""


@dataclass(frozen=True)
class ConvertProgress:
    """Bytes of weights written so far, and those there will be."""

    done: int
    total: int


def bundled_names() -> tuple[str, ...]:
    """Return the names that may follow ``bundled:`` in a model id."""
    return tuple(SOURCES)


def is_bundled(model_id: str) -> bool:
    """Say whether ``model_id`` asks for a bundled model, be it one there is or not."""
    return model_id.startswith(_PREFIX)


def bundled_path(model_id: str, cache_dir: Path) -> Path:
    """Return the folder of a bundled model below ``cache_dir``, converted yet or not.

    Raises BundledModelError where there is no such bundled model.
    """
    name = model_id.removeprefix(_PREFIX)
    if not is_bundled(model_id) or name not in SOURCES:
        known = ", ".join(_PREFIX + name for name in SOURCES)
        raise BundledModelError(f"no bundled model {model_id!r}; there is: {known}")
    return cache_dir / "bundled" / name


async def ensure_bundled(
    model_id: str,
    *,
    cache_dir: Path,
    engine_python: Path,
    on_progress: Callable[[ConvertProgress], None],
) -> Path:
    """Return the folder of a bundled model, converting it first unless it is there intact.

    The conversion is a child of ``engine_python``, which has the packages for it; ``on_progress`` hears of
    it from the event loop. Cancelling this kills the child, and what it left is removed by the next one.

    Raises BundledModelError where there is no such model, its package is missing, or the conversion fails.
    """
    path = bundled_path(model_id, cache_dir)
    if await asyncio.to_thread(is_intact, path):
        return path
    await _convert(path, engine_python, on_progress)
    if not await asyncio.to_thread(is_intact, path):
        raise BundledModelError(f"{path} is damaged though just written: check the disk and its free space")
    return path


async def _convert(path: Path, engine_python: Path, on_progress: Callable[[ConvertProgress], None]) -> None:
    # -I: neither PYTHONPATH nor the gateway's own packages reach the engine's Python.
    command = [str(engine_python), "-I", str(_CONVERTER), "--model", path.name, "--output", str(path)]
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LONGEST_LINE,
            start_new_session=True,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise BundledModelError(f"cannot run the engine's Python, {engine_python}: {reason}") from error
    try:
        message, last_line = await _listen(child, on_progress)
        status = await child.wait()
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        # Not just wait(): that leaves the pipe open where we stopped reading before its end.
        await child.communicate()
    if status != 0:
        raise BundledModelError(message or _crash(path.name, status, last_line))


async def _listen(
    child: asyncio.subprocess.Process, on_progress: Callable[[ConvertProgress], None]
) -> tuple[str, str]:
    """Pass the child's progress on until its output ends; return its error message and last other line."""
    message = last_line = ""
    if child.stdout is None:
        return message, last_line
    async for line in child.stdout:
        match _event(line):
            case {"event": "progress", "done": int(done), "total": int(total)}:
                on_progress(ConvertProgress(done=done, total=total))
            case {"event": "error", "message": str(text)}:
                message = text
            case {"event": "done"}:
                pass
            case _:
                last_line = line.decode(errors="replace").strip() or last_line
    return message, last_line


def _event(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _crash(name: str, status: int, last_line: str) -> str:
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"the conversion of {name} {how}" + (f": {last_line}" if last_line else "")
