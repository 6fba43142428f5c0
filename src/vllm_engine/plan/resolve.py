"""Resolves settings, machine and model into the plan, and that into the command."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vllm_engine.config.environment import Environment
from vllm_engine.config.library_variables import socket_variables
from vllm_engine.config.settings import Settings
from vllm_engine.models.engine_script import EnginePython
from vllm_engine.models.model_source import Model, locate_model
from vllm_engine.plan.engine_command import EngineCommand, build_command, engine_environment
from vllm_engine.plan.engine_plan import EnginePlan, Planner
from vllm_engine.plan.engine_site import site_folder, write_metadata, write_shims
from vllm_engine.plan.model_files import download_dir
from vllm_engine.plan.preflight import Preflight
from vllm_engine.system.device import free_memory_bytes


async def resolve_plan(
    settings: Settings,
    environment: Environment,
    preflight: Preflight,
) -> EnginePlan:
    """Locate the model and resolve every `auto` and default; fetches no weights.

    Raises:
        SettingsError: a setting does not fit the model.
        ModelError: the model cannot be found or prepared.
    """
    return plan_for(await find_model(settings, environment, preflight), settings, environment, preflight)


async def find_model(settings: Settings, environment: Environment, preflight: Preflight) -> Model:
    """Locate the model.

    Raises:
        ModelError: the model cannot be found.
    """
    engine = engine_python(settings, environment, preflight)
    return await locate_model(settings, engine, download_dir(preflight))


def engine_python(settings: Settings, environment: Environment, preflight: Preflight) -> EnginePython:
    """Return the engine's Python with the environment that the engine gets."""
    installation = preflight.installation
    return EnginePython(installation.python, engine_environment(settings, installation, environment.merged))


def plan_for(model: Model, settings: Settings, environment: Environment, preflight: Preflight) -> EnginePlan:
    """Resolve every `auto` and default for a model; without its configuration nothing is limited by it.

    Raises:
        SettingsError: a setting does not fit the machine or the model.
    """
    return Planner(
        settings,
        environment.source,
        environment.merged,
        preflight.device,
        model,
        free_memory_bytes(),
        preflight.flag_names,
    ).plan()


def resolve_command(
    settings: Settings,
    environment: Environment,
    preflight: Preflight,
    plan: EnginePlan,
    socket: Path,
    *,
    is_offline: bool = False,
) -> EngineCommand:
    """Return the engine's command for a plan, and write the files that it needs."""
    installation = preflight.installation
    offline = {"HF_HUB_OFFLINE": "1"} if is_offline else {}
    folder = site_folder(settings.cache_dir)
    if installation.distribution != "vllm":
        write_metadata(folder, installation.version)
    write_shims(folder, installation.needs_shims)
    return build_command(
        settings,
        installation,
        plan,
        socket=socket,
        environ=environment.merged | socket_variables(environment.merged) | offline,
        flags=preflight.flags,
    )


def start_key(settings: Settings, preflight: Preflight, plan: EnginePlan) -> str:
    """Return a name for all starts of this configuration, under which their durations are kept."""
    parts = {
        "model": plan.model.location,
        "revision": plan.model.revision,
        "dtype": plan.dtype.value,
        "vllm": preflight.installation.version,
        "device": preflight.device.name,
        "tensor_parallel": plan.tensor_parallel.value,
        "eager": plan.enforce_eager is not None or "enforce-eager" in preflight.flag_names,
        "frontend": settings.engine_frontend,
    }
    text = json.dumps({name: str(value) for name, value in parts.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
