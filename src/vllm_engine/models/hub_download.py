"""The one download: fetches a model's files through the engine's hub client, and checks them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_engine.config.settings import Settings
from vllm_engine.errors import ModelError
from vllm_engine.models.download_progress import Download, Rate
from vllm_engine.models.engine_script import EnginePython, Event, ScriptError
from vllm_engine.models.engine_scripts.hub_files import HubFile
from vllm_engine.models.hub_errors import explain_hub_error


class HubDownload:
    """Fetches files of one commit into the hub client's cache."""

    def __init__(
        self,
        settings: Settings,
        engine: EnginePython,
        show: Callable[[Download], None],
        note: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take whom to tell how far it is, and of each file that was checked."""
        self._settings = settings
        self._engine = engine
        self._show = show
        self._note = note
        self._clock = clock
        self._rate = Rate()

    async def fetch(
        self, commit: str, cache: str, folder: Path, files: Sequence[HubFile], *, check_all: bool
    ) -> int:
        """Fetch what `folder`, the commit's snapshot, lacks, and check each file that comes.

        Cancelling this ends it at once; files that are complete stay.

        Args:
            commit: the hub's commit.
            cache: the hub client's cache; empty for the usual one.
            folder: the snapshot's folder.
            files: what is wanted.
            check_all: check the content of those that are there too, not only their sizes.

        Returns:
            How many bytes had to be fetched.

        Raises:
            ModelError: they cannot be had, or are not what the hub says they are.
        """
        missing = [file for file in files if not file.is_in(folder)]
        asked = files if check_all else missing
        if not asked:
            return 0
        present = [file for file in files if file not in missing]
        checked = len(files) - len(asked)
        # Bytes of `present` that the script will count as its own.
        beside = sum(file.size for file in present) if not check_all else 0

        def heard(event: Event) -> None:
            nonlocal checked
            match event:
                case {"event": "progress", "bytes": int(count)}:
                    if missing:
                        self._show(self._seen(files, checked, beside + count))
                case {"event": "checked", "path": path}:
                    checked += 1
                    self._note(f"checked {checked} of {len(files)}: {path}")
                case {"event": "damaged", "path": path}:
                    self._note(f"{path} in the cache is damaged: fetching it again")

        request = {
            "do": "fetch",
            "model": self._settings.model_id,
            "commit": commit,
            "cache": cache,
            "files": [(file.path, file.size, file.blob) for file in asked],
        }
        limit = self._settings.startup_timeout_seconds
        try:
            await self._engine.run("hub_client", request, silence_seconds=limit, on_event=heard)
        except ScriptError as error:
            met = ScriptError("interrupted", error.detail) if error.kind == "unreachable" else error
            raise ModelError(explain_hub_error(self._settings, met)) from error
        return sum(file.size for file in missing)

    def _seen(self, files: Sequence[HubFile], files_done: int, bytes_done: int) -> Download:
        rate = self._rate.add(self._clock(), bytes_done)
        return Download(files_done, len(files), bytes_done, sum(file.size for file in files), rate)
