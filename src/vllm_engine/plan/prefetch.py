"""Fetches a model into the cache before anything serves it, and proves that it is whole."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_engine.config.environment import Environment
from vllm_engine.config.library_variables import AUTHORITIES
from vllm_engine.config.settings import Settings
from vllm_engine.config.spelling import Misspelt
from vllm_engine.engine.startup.hub_cache import SCAN_SECONDS, HubCache
from vllm_engine.errors import Diagnosis, ModelError, Problem, SettingsError
from vllm_engine.models.bundled import ConvertProgress
from vllm_engine.models.download_progress import Download, Weights, human_bytes
from vllm_engine.models.engine_scripts import hub_fetch
from vllm_engine.models.model_source import Model, explain_hub_error, locate_model
from vllm_engine.models.repository_files import HubFile, WantedFiles
from vllm_engine.plan.engine_command import engine_environment, flag_value
from vllm_engine.plan.preflight import Preflight, inspect
from vllm_engine.plan.resolve import hub_files

_SCRIPT = Path(hub_fetch.__file__)
_NEEDED = ("CACHE_DIR", "MODEL_ID", *AUTHORITIES)
"""Whose problems stop a download; the machine that fetches need not be one that serves."""

ShowDownload = Callable[[Download], None]


@dataclass(frozen=True)
class Fetched:
    """A model that is on this machine; bytes are of all its files, and of those that had to be fetched."""

    model: str
    revision: str | None
    folder: Path
    files: int
    bytes: int
    bytes_fetched: int
    seconds: float

    def __str__(self) -> str:
        """Say it in one line."""
        at = f" at {self.revision}" if self.revision else ""
        size, fetched = human_bytes(self.bytes), human_bytes(self.bytes_fetched)
        return f"{self.model}{at}: {self.files} files, {size} ({fetched} fetched) in {self.folder}"

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON-able object."""
        return {**asdict(self), "folder": str(self.folder), "seconds": round(self.seconds, 1)}


class Prefetch:
    """One download: settings in, progress out."""

    def __init__(
        self,
        settings: Settings,
        environment: Environment,
        show: ShowDownload,
        convert: Callable[[ConvertProgress], None],
        note: Callable[[str], None],
    ) -> None:
        """Take what to fetch, and whom to tell of files, of a conversion, and of all else."""
        self._settings = settings
        self._environment = environment
        self._show = show
        self._convert = convert
        self._note = note

    async def run(self, prefix: Path) -> Fetched:
        """Fetch `MODEL_ID` at `MODEL_REVISION`; `prefix` is this environment's `sys.prefix`.

        Raises:
            SettingsError: a setting that a download needs cannot work.
            ModelError: the model cannot be had, or is not what the hub says it is.
        """
        began = time.monotonic()
        preflight, problems = inspect(self._settings, self._environment, prefix)
        if bad := list(filter(_is_in_the_way, problems)):
            raise SettingsError(bad)
        environ = engine_environment(self._settings, preflight.installation, self._environment.merged)
        python = preflight.installation.python
        model = await locate_model(
            self._settings, engine_python=python, environ=environ, on_progress=self._convert
        )
        if model.listing is None and (sizes := _sizes(Path(model.location))):
            return self._fetched(model, Path(model.location), sizes, 0, began)
        wanted = self._wanted(model, preflight)
        files = list({file.path: file for file in wanted.weights + wanted.beside}.values())
        cache = flag_value(preflight.flags, "download-dir") or ""
        before = self._missing(model, cache, files)
        folder = await self._fetch(model, cache, files, python, environ, wanted)
        return self._fetched(model, folder, [file.size for file in files], before, began)

    def _wanted(self, model: Model, preflight: Preflight) -> WantedFiles:
        if model.listing is None:
            raise ModelError(explain_hub_error(self._settings, "offline", "HF_HUB_OFFLINE is set"))
        wanted = hub_files(model.listing, preflight)
        if wanted is None or model.revision is None:
            name = f'MODEL_ID="{self._settings.model_id}"'
            raise ModelError(f"{name}: the hub tells no files of it that vLLM could load; try again later")
        return wanted

    def _missing(self, model: Model, cache: str, files: list[HubFile]) -> int:
        blobs = _folder(model, cache) / "blobs"
        return sum(file.size for file in files if not (blobs / file.blob).exists())

    async def _fetch(
        self,
        model: Model,
        cache: str,
        files: list[HubFile],
        python: Path,
        environ: Mapping[str, str],
        wanted: WantedFiles,
    ) -> Path:
        watching = HubCache(_folder(model, cache), wanted)
        process = await asyncio.create_subprocess_exec(
            str(python),
            *("-I", str(_SCRIPT), self._settings.model_id, str(model.revision), cache),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=dict(environ),
            start_new_session=True,
        )
        watcher = asyncio.create_task(self._watch(watching))
        try:
            return await self._listen(process, files)
        finally:
            watcher.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _watch(self, cache: HubCache) -> None:
        while (seen := await asyncio.to_thread(cache.scan)).weights is not Weights.PRESENT:
            self._show(seen)
            await asyncio.sleep(SCAN_SECONDS)

    async def _listen(self, process: asyncio.subprocess.Process, files: list[HubFile]) -> Path:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the child has no pipes")
        process.stdin.write(json.dumps([[file.path, file.size, file.blob] for file in files]).encode())
        process.stdin.close()
        checked = 0
        async for line in process.stdout:
            match json.loads(line):
                case {"event": "checked", "path": path}:
                    checked += 1
                    self._note(f"checked {checked} of {len(files)}: {path}")
                case {"event": "damaged", "path": path}:
                    self._note(f"{path} in the cache is damaged: fetching it again")
                case {"event": "done", "folder": str(folder)}:
                    return Path(folder)
                case {"event": "error", "kind": str(kind), "detail": str(detail)}:
                    raise ModelError(self._explained(kind, detail))
        raise ModelError(f'MODEL_ID="{self._settings.model_id}": the hub client ended without a word')

    def _explained(self, kind: str, detail: str) -> Diagnosis:
        if kind == "damaged":
            told = f'MODEL_ID="{self._settings.model_id}": {detail}'
            return Diagnosis(
                "corrupt-weights", told, "look at what is between here and the hub, and at the disk"
            )
        if kind == "unreachable":
            told = f'MODEL_ID="{self._settings.model_id}": the download broke off ({detail})'
            return Diagnosis("hub-unreachable", told, "run it again: files that are whole are kept", True)
        return explain_hub_error(self._settings, kind, detail)

    def _fetched(self, model: Model, folder: Path, sizes: list[int], fetched: int, began: float) -> Fetched:
        seconds = time.monotonic() - began
        name = self._settings.model_id
        return Fetched(name, model.revision, folder, len(sizes), sum(sizes), fetched, seconds)


def _is_in_the_way(problem: Problem) -> bool:
    # A misspelt name may be the model's, and what the hub's client reads itself decides where files go.
    return problem.key in _NEEDED or problem.key.startswith("HF_") or isinstance(problem, Misspelt)


def _sizes(folder: Path) -> list[int]:
    paths = [folder] if folder.is_file() else folder.rglob("*")
    return [path.stat().st_size for path in paths if path.is_file()]


def _folder(model: Model, cache: str) -> Path:
    if model.listing is None:
        raise ValueError("a model without a listing has no folder in the hub's cache")
    return Path(cache) / model.listing.folder.name if cache else model.listing.folder
