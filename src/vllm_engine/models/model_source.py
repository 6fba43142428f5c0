"""Where a model comes from, and what its own configuration says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from vllm_engine.config.settings import Settings
from vllm_engine.errors import Diagnosis, ModelError
from vllm_engine.models.bundled import bundled_path, describe_bundled, is_bundled
from vllm_engine.models.engine_script import EnginePython, ScriptError
from vllm_engine.models.engine_scripts.bundled_files import WEIGHTS
from vllm_engine.models.engine_scripts.chat_format import UNKNOWN, ChatFormat, read_chat_format
from vllm_engine.models.engine_scripts.hub_files import (
    INDEX,
    HubFile,
    Listing,
    WantedFiles,
    read_index,
    wanted_files,
)
from vllm_engine.models.hub_errors import explain_hub_error

HUB_TIMEOUT_SECONDS = 90.0
"""How long the hub may take to answer, retries included."""


@dataclass(frozen=True)
class Model:
    """A model that can be handed to the engine.

    Attributes:
        location: what vLLM gets as its model: a hub id or a folder.
        revision: the hub commit that the configuration came from, where known.
        config: the model's config.json; empty where it has none.
        folder: where its files are, or will be once they are fetched; None where that is not known.
        listing: what the hub's repository holds; None for local models, and if the hub did not list it.
        chat: how its conversations are written, as far as that can be known before the download.
    """

    location: str
    revision: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    listing: Listing | None = None
    chat: ChatFormat = UNKNOWN


@dataclass(frozen=True)
class HubAccount:
    """What the hub says of the token, and of the model's chat template.

    Attributes:
        owner: whose token it is; None without one, or if the hub did not say.
        is_refused: whether the hub does not accept it.
        has_template: whether the model has a chat template; None where unknown.
    """

    owner: str | None
    is_refused: bool
    has_template: bool | None


async def locate_model(settings: Settings, engine: EnginePython, cache: str | None = None) -> Model:
    """Find the model and read its configuration; fetches and converts no weights.

    Args:
        settings: `MODEL_ID`, `MODEL_REVISION` and `CACHE_DIR` are used.
        engine: whose hub client asks the hub.
        cache: the hub client's cache; None for the usual one.

    Raises:
        ModelError: there is no such model, or it may not or cannot be fetched.
    """
    if is_bundled(settings.model_id):
        return await _bundled_model(settings, engine)
    if settings.is_local_model:
        return _local_model(settings.model_id)
    found = await _ask_hub(settings, engine, {"do": "look", "cache": cache or ""})
    return msgspec.convert(
        {"location": settings.model_id, **found}, Model, dec_hook=lambda kind, value: kind(value)
    )


async def _bundled_model(settings: Settings, engine: EnginePython) -> Model:
    folder = bundled_path(settings.model_id, settings.cache_dir)
    if folder.is_dir():
        return _in_folder(folder)
    config, size, template = await describe_bundled(settings.model_id, engine)
    listing = Listing((HubFile(WEIGHTS, size, ""),))
    return Model(str(folder), None, config, folder, listing, ChatFormat(template))


def _local_model(model_id: str) -> Model:
    folder = Path(model_id).expanduser()
    if not folder.exists():
        told = Diagnosis(
            "model-not-found", f'MODEL_ID="{model_id}": no such folder', "mount it or correct the path"
        )
        raise ModelError(told)
    return _in_folder(folder.resolve())


def require_config(model_id: str) -> None:
    """Refuse a local folder without the configuration that vLLM would miss after its imports.

    Raises:
        ModelError: neither config.json nor Mistral's params.json is there.
    """
    folder = Path(model_id).expanduser()
    if folder.is_dir() and not any((folder / name).exists() for name in ("config.json", "params.json")):
        told = Diagnosis(
            "model-config-missing",
            f'MODEL_ID="{model_id}": the folder has no config.json that vLLM can read',
            "name the folder or repository that holds config.json and the weights; "
            "a GGUF file needs its own path",
        )
        raise ModelError(told)


def _in_folder(folder: Path) -> Model:
    return Model(str(folder), None, read_config(folder), folder, chat=read_chat_format(folder))


def read_config(folder: Path) -> Mapping[str, Any]:
    """Read a model folder's config.json; empty where it has none, as a GGUF file.

    Raises:
        ModelError: the file is there and is not a JSON object.
    """
    return read_json_file(folder / "config.json")


def read_json_file(path: Path) -> Mapping[str, Any]:
    """Read one of a model's JSON files; empty if it is not there.

    Raises:
        ModelError: the file is there and is not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); fetch the model again") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} does not hold a JSON object; fetch the model again")
    return config


def files_to_load(model: Model, load_format: str = "auto") -> WantedFiles | None:
    """Return which of a model's files vLLM loads with this `--load-format`; None if that is unknown."""
    listing = model.listing or _local_listing(model.folder)
    if listing is None:
        return None
    wanted = wanted_files(listing, load_format)
    return wanted if wanted.weights else None


def _local_listing(folder: Path | None) -> Listing | None:
    """Return what vLLM would find in a folder."""
    if folder is None or not folder.is_dir():
        return None
    paths = [path for path in folder.iterdir() if path.is_file()]
    files = tuple(HubFile(path.name, path.stat().st_size, path.name) for path in paths)
    return Listing(files, read_index(folder / INDEX))


async def ask_hub_account(settings: Settings, engine: EnginePython) -> HubAccount:
    """Ask the hub about the token and the model's chat template.

    Raises:
        ModelError: the hub client does not run.
    """
    return HubAccount(**await _ask_hub(settings, engine, {"do": "account"}))


async def _ask_hub(settings: Settings, engine: EnginePython, request: Mapping[str, object]) -> dict[str, Any]:
    asked = {**request, "model": settings.model_id, "revision": settings.model_revision}
    try:
        answer: dict[str, Any] = await engine.run("hub_client", asked, silence_seconds=HUB_TIMEOUT_SECONDS)
    except ScriptError as error:
        endpoint = engine.environ.get("HF_ENDPOINT", "")
        raise ModelError(explain_hub_error(settings, error, endpoint)) from error
    return answer
