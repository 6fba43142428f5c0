"""The one download: fetches a model's files through the engine's hub client, and checks them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllm_engine.config.settings import Settings
from vllm_engine.errors import ModelError
from vllm_engine.models.download_progress import Download, Rate
from vllm_engine.models.engine_script import EnginePython, Event, ScriptError
from vllm_engine.models.engine_scripts.hub_files import HubFile
from vllm_engine.models.hub_errors import explain_hub_error
from vllm_engine.models.model_source import Model


@dataclass(frozen=True)
class Listener:
    """Callbacks: a download's progress, a conversion's (bytes done, bytes in all), a line about a file."""

    downloading: Callable[[Download], None]
    converting: Callable[[int, int], None]
    note: Callable[[str], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic


async def fetch_files(
    settings: Settings,
    engine: EnginePython,
    model: Model,
    files: Sequence[HubFile],
    listener: Listener,
    *,
    cache: str = "",
    check_all: bool = False,
) -> int:
    """Fetch what the model's folder lacks of `files`, check it, and return how many bytes were fetched.

    With `check_all` the content of those that are there is checked too, not only their sizes. `cache` is the
    hub client's; empty for the usual one. Cancelling this ends it at once; files that are complete stay.

    Raises:
        ModelError: they cannot be had, are not what the hub says they are, or nothing came for
            `STARTUP_TIMEOUT_SECONDS`.
    """
    folder = model.folder
    missing = [file for file in files if folder is None or not file.is_in(folder)]
    asked = files if check_all else missing
    total, missing_bytes = sum(file.size for file in files), sum(file.size for file in missing)
    if not asked:
        return 0
    rate, checked = Rate(), len(files) - len(asked)
    beside = 0 if check_all else total - missing_bytes

    def heard(event: Event) -> None:
        nonlocal checked
        match event:
            case {"event": "progress", "bytes": int(count)} if missing:
                done = beside + count
                listener.downloading(
                    Download(checked, len(files), done, total, rate.add(listener.clock(), done))
                )
            case {"event": "checked", "path": path}:
                checked += 1
                listener.note(f"checked {checked} of {len(files)}: {path}")
            case {"event": "damaged", "path": path}:
                listener.note(f"{path} in the cache is damaged: fetching it again")

    request = {
        "do": "fetch",
        "model": settings.model_id,
        "commit": model.revision,
        "cache": cache,
        "files": asked,
    }
    try:
        await engine.run(
            "hub_client", request, silence_seconds=settings.startup_timeout_seconds, on_event=heard
        )
    except ScriptError as error:
        met = ScriptError("interrupted", error.detail) if error.kind == "unreachable" else error
        raise ModelError(explain_hub_error(settings, met, engine.environ.get("HF_ENDPOINT", ""))) from error
    return missing_bytes
