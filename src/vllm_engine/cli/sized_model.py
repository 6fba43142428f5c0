"""Finds the model whose size is to be computed: on the hub, in a folder, or in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings
from vllm_engine.errors import ModelError, OptionProblem, SettingsError
from vllm_engine.models.bundled import bundled_path, is_bundled
from vllm_engine.models.engine_script import EnginePython
from vllm_engine.models.hub_http import look_over_http
from vllm_engine.models.model_config import text_config
from vllm_engine.models.model_source import Model, files_to_load, locate_model, read_json_file, require_config
from vllm_engine.plan.engine_installation import find_engine_python
from vllm_engine.sizing.replica import SizedModel
from vllm_engine.system.sizes import GIB

_SHAPE = ("num_hidden_layers", "hidden_size", "n_layer", "n_layers", "num_layers", "n_embd", "d_model")
"""What models' config.json have one of."""


async def sized_model(
    settings: Settings,
    environment: Environment,
    prefix: Path,
    config_file: Path | None,
    weights_gib: float | None,
) -> SizedModel:
    """Return the model of `MODEL_ID`; with `config_file` and `weights_gib` nothing is asked.

    Raises:
        SettingsError: the size of the weights is not known, and not given.
        ModelError: the model, or a file of it, cannot be read.
    """
    name = settings.model_id
    config: Mapping[str, Any]
    if config_file is not None:
        config, stored = read_given(config_file), None
    else:
        model = await _located(settings, environment, prefix)
        wanted = files_to_load(model)
        config, stored = model.config, wanted.weight_bytes if wanted else None
        if settings.is_local_model:
            name = model.location
    if weights_gib is not None:
        stored = int(weights_gib * GIB)
    if stored is None:
        why = "the size of the weights is not known; give it, as --weights-gib 5.75"
        raise SettingsError([OptionProblem(f"plan {name}", name, why)])
    return SizedModel(name, config, stored)


async def _located(settings: Settings, environment: Environment, prefix: Path) -> Model:
    if settings.is_local_model:
        require_config(settings.model_id)
    try:
        python: Path | None = find_engine_python(settings, prefix)
    except SettingsError:
        python = None
    if python is None and not settings.is_local_model:
        if is_bundled(settings.model_id) and not bundled_path(settings.model_id, settings.cache_dir).is_dir():
            why = "its package is in the engine's environment, which is not here; run `make setup`"
            raise ModelError(f'MODEL_ID="{settings.model_id}": {why}')
        if not is_bundled(settings.model_id):
            return await look_over_http(settings, environment.merged)
    environ = {"HF_HUB_DISABLE_TELEMETRY": "1", **environment.merged}
    if _can_be_written(settings.cache_dir):  # elsewhere the hub client's own cache is used
        environ.setdefault("HF_HOME", str(settings.cache_dir.absolute() / "huggingface"))
    return await locate_model(settings, EnginePython(python or Path("python"), environ))


def _can_be_written(folder: Path) -> bool:
    """Say whether a folder, or the one that it would be made in, can be written."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return os.access(there, os.W_OK)


def read_given(config_file: Path) -> Mapping[str, Any]:
    """Read the file of `--config`.

    Raises:
        SettingsError: it is not there, or not a JSON object.
    """
    try:
        found = read_json_file(config_file)
    except ModelError as error:
        why = f"{error.diagnosis.message.partition('; ')[0]}; name the model's config.json"
        raise SettingsError([OptionProblem(f"--config {config_file}", str(config_file), why)]) from error
    if not found:
        why = "no such file, or an empty one; name the model's config.json"
        raise SettingsError([OptionProblem(f"--config {config_file}", str(config_file), why)])
    if not text_config(found).keys() & _SHAPE:
        why = f"says nothing of a model's shape, as {_SHAPE[0]} would; name the model's config.json"
        raise SettingsError([OptionProblem(f"--config {config_file}", str(config_file), why)])
    return found
