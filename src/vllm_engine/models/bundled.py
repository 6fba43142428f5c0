"""The models whose weights come as a Python package, so that a first start needs no hub and no download."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from vllm_engine.errors import Diagnosis, ModelError
from vllm_engine.models.engine_script import EnginePython, Event, ScriptError
from vllm_engine.models.engine_scripts.bundled_files import SOURCES, is_intact

_PREFIX: Final = "bundled:"
_SCRIPT: Final = "convert_gguf"
_SILENCE_SECONDS: Final = 600.0
"""Another process may be converting the same model: that one is waited for."""


def bundled_names() -> tuple[str, ...]:
    """Return the names that may follow `bundled:` in a model id."""
    return tuple(SOURCES)


def is_bundled(model_id: str) -> bool:
    """Say whether `model_id` asks for a bundled model, whether or not there is one of that name."""
    return model_id.startswith(_PREFIX)


def bundled_path(model_id: str, cache_dir: Path) -> Path:
    """Return the folder of a bundled model below `cache_dir`, converted yet or not.

    Raises:
        ModelError: there is no such bundled model.
    """
    name = model_id.removeprefix(_PREFIX)
    if not is_bundled(model_id) or name not in SOURCES:
        known = ", ".join(_PREFIX + name for name in SOURCES)
        raise ModelError(f"no bundled model {model_id!r}; there is: {known}")
    return cache_dir / "bundled" / name


async def describe_bundled(model_id: str, engine: EnginePython) -> tuple[Mapping[str, Any], int, str]:
    """Return a bundled model's config.json, the bytes of its weights and its chat template; convert nothing.

    Raises:
        ModelError: its package is missing or altered.
    """
    request = {"do": "describe", "model": model_id.removeprefix(_PREFIX)}
    try:
        found = await engine.run(_SCRIPT, request, silence_seconds=_SILENCE_SECONDS)
    except ScriptError as error:
        raise _model_error(model_id, error) from error
    return found["config"], found["bytes"], found["template"]


async def ensure_bundled(
    model_id: str, *, cache_dir: Path, engine: EnginePython, on_progress: Callable[[int, int], None]
) -> Path:
    """Return the folder of a bundled model, converting it first unless it is there intact.

    `on_progress` gets the bytes of weights written so far, and those there will be. Cancelling this kills the
    converter; what it left is removed by the next one.

    Raises:
        ModelError: there is no such model, its package is missing, or the conversion fails.
    """
    path = bundled_path(model_id, cache_dir)
    if await asyncio.to_thread(is_intact, path):
        return path

    def progress(event: Event) -> None:
        if event["event"] == "progress":
            on_progress(event["done"], event["total"])

    request = {"do": "convert", "model": path.name, "folder": str(path.parent)}
    try:
        await engine.run(_SCRIPT, request, silence_seconds=_SILENCE_SECONDS, on_event=progress)
    except ScriptError as error:
        raise _model_error(model_id, error, cache_dir) from error
    if not await asyncio.to_thread(is_intact, path):
        raise ModelError(
            f"{path} is damaged although it has just been written; check the disk and its free space"
        )
    return path


def _model_error(model_id: str, error: ScriptError, cache_dir: Path | None = None) -> ModelError:
    how = f"the conversion {error}" if error.kind == "crashed" else str(error)
    message = f'MODEL_ID="{model_id}": {how}'
    if error.kind != "disk_full":
        return ModelError(Diagnosis(ModelError.code, message))
    remedy = f"make room in CACHE_DIR={cache_dir}, or set CACHE_DIR to a folder on a larger disk"
    return ModelError(Diagnosis("disk-full", message, remedy))
