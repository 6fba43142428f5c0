"""Brings a model's files to this machine before vLLM starts: the same for `serve` and `download`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllm_engine.config.library_variables import is_hub_offline
from vllm_engine.errors import ModelError
from vllm_engine.models.abilities import Abilities, abilities
from vllm_engine.models.bundled import ensure_bundled, is_bundled
from vllm_engine.models.engine_script import ScriptError
from vllm_engine.models.engine_scripts.hub_files import FORMATS, WantedFiles
from vllm_engine.models.hub_download import Listener, fetch_files
from vllm_engine.models.hub_errors import explain_hub_error
from vllm_engine.models.model_source import Model, files_to_load, read_json_file
from vllm_engine.plan.engine_command import flag_value, is_switched_on
from vllm_engine.plan.preflight import Preflight


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model that vLLM loads."""

    folder: Path | None = None
    """Where they are; None if vLLM has to fetch them itself."""
    wanted: WantedFiles | None = None
    """Which they are; None for a folder of the user's."""
    bytes_fetched: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of each file, in bytes."""
        if self.wanted is not None or self.folder is None:
            return tuple(file.size for file in self.wanted.files) if self.wanted else ()
        paths = [self.folder] if self.folder.is_file() else self.folder.rglob("*")
        return tuple(path.stat().st_size for path in paths if path.is_file())


def files_of(model: Model, preflight: Preflight) -> WantedFiles | None:
    """Return which of a model's files vLLM loads; None if that is unknown."""
    return files_to_load(model, flag_value(preflight.flags, "load-format") or "auto")


def loads_files(preflight: Preflight) -> bool:
    """Whether vLLM will load the files that `files_of` tells."""
    load_format = flag_value(preflight.flags, "load-format") or "auto"
    return load_format in FORMATS and flag_value(preflight.flags, "ignore-patterns") is None


async def obtain_model(
    preflight: Preflight, model: Model, listener: Listener, *, check_all: bool = False
) -> ModelFiles:
    """Convert or download what is missing of the files that vLLM will load.

    `check_all`: fetch them whatever vLLM's flags say, and check the content of those that are present, too.

    Raises:
        ModelError: the files cannot be had.
    """
    settings, engine = preflight.settings, preflight.engine_python
    if is_bundled(settings.model_id):
        cache_dir, progress = settings.cache_dir, listener.converting
        return ModelFiles(
            await ensure_bundled(settings.model_id, cache_dir=cache_dir, engine=engine, on_progress=progress)
        )
    if settings.is_local_model:
        return ModelFiles(model.folder)
    wanted = files_of(model, preflight)
    is_wanted = check_all or loads_files(preflight)
    is_kept_off = model.listing is None and is_hub_offline(engine.environ)
    if is_wanted and is_kept_off and (wanted is None or wanted.lacking):
        # vLLM would find that out only after its imports.
        what = ", ".join(sorted(wanted.lacking)) if wanted else "its weights"
        raise ModelError(explain_hub_error(settings, ScriptError("offline", f"not in the cache: {what}")))
    if wanted is None or model.folder is None or model.revision is None or not is_wanted:
        return ModelFiles()
    fetched = 0
    if model.listing is not None:
        cache = preflight.download_dir
        fetched = await fetch_files(
            settings, engine, model, wanted.files, listener, cache=cache, check_all=check_all
        )
    return ModelFiles(model.folder, wanted, fetched)


def model_abilities(preflight: Preflight, model: Model, folder: Path | None) -> Abilities:
    """Return what a model takes and how it samples; `folder` is where its files are, if that is known."""
    try:
        generation = read_json_file(folder / "generation_config.json") if folder is not None else {}
    except ModelError:
        # vLLM goes on without it.
        generation = {}
    names = ("limit-mm-per-prompt", "generation-config", "override-generation-config")
    given = {name: flag_value(preflight.flags, name) for name in names}
    is_text_only = is_switched_on(preflight.flags, "language-model-only")
    return abilities(model.config, generation, given, is_text_only=is_text_only)
