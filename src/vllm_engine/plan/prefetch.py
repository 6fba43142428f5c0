"""`vllm-engine download`: a model in the cache before anything serves it, every file checked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_engine.config.environment import Environment
from vllm_engine.config.library_variables import AUTHORITIES
from vllm_engine.config.settings import Settings
from vllm_engine.config.spelling import Misspelt
from vllm_engine.errors import ModelError, Problem, SettingsError
from vllm_engine.models.bundled import is_bundled
from vllm_engine.models.download_progress import human_bytes
from vllm_engine.models.engine_script import ScriptError
from vllm_engine.models.hub_download import Listener
from vllm_engine.models.hub_errors import explain_hub_error
from vllm_engine.plan.model_files import obtain_model
from vllm_engine.plan.preflight import inspect
from vllm_engine.plan.resolve import find_model

_NEEDED = ("CACHE_DIR", "MODEL_ID", *AUTHORITIES)
"""Whose problems stop a download; the machine that fetches need not be one that serves."""


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


async def prefetch(
    settings: Settings,
    environment: Environment,
    prefix: Path,
    listener: Listener,
    illegal: Sequence[Problem] = (),
) -> Fetched:
    """Fetch `MODEL_ID` at `MODEL_REVISION`; `prefix` is this environment's `sys.prefix`.

    `illegal` are problems that stop it in any case.

    Raises:
        SettingsError: a setting that a download needs cannot work.
        ModelError: the model cannot be had, or is not what the hub says it is.
    """
    began = time.monotonic()
    preflight, problems = inspect(settings, environment, prefix, illegal)
    if bad := [each for each in problems if each in illegal or _blocks_download(each)]:
        raise SettingsError(bad)
    model = await find_model(preflight)
    if model.listing is None and not (settings.is_local_model or is_bundled(settings.model_id)):
        kind = "offline" if environment.merged.get("HF_HUB_OFFLINE") else "unlisted"
        raise ModelError(explain_hub_error(settings, ScriptError(kind, "no list of files")))
    files = await obtain_model(preflight, model, listener, check_all=True)
    if files.folder is None:
        name = f'MODEL_ID="{settings.model_id}"'
        raise ModelError(f"{name}: the hub lists no weights that vLLM could load")
    sizes = files.sizes
    seconds = time.monotonic() - began
    return Fetched(
        settings.model_id, model.revision, files.folder, len(sizes), sum(sizes), files.bytes_fetched, seconds
    )


def _blocks_download(problem: Problem) -> bool:
    # A misspelt name may be the model's, and what the hub's client reads itself decides where files go.
    return problem.key in _NEEDED or problem.key.startswith("HF_") or isinstance(problem, Misspelt)
