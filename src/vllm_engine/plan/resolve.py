"""Resolves settings, machine and model into the plan, and that into the command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from vllm_engine.config.environment import Environment
from vllm_engine.config.library_variables import socket_variables
from vllm_engine.config.settings import Settings
from vllm_engine.engine.startup.hub_cache import HubCache
from vllm_engine.models.bundled import ConvertProgress
from vllm_engine.models.model_source import Model, locate_model
from vllm_engine.models.repository_files import Listing, WantedFiles, wanted_files
from vllm_engine.plan.engine_command import EngineCommand, build_command, engine_environment, flag_value
from vllm_engine.plan.engine_plan import EnginePlan, Planner
from vllm_engine.plan.engine_site import site_folder, write_metadata, write_shims
from vllm_engine.plan.preflight import Preflight
from vllm_engine.system.device import free_memory_bytes


async def resolve_plan(
    settings: Settings,
    environment: Environment,
    preflight: Preflight,
    on_progress: Callable[[ConvertProgress], None] = lambda _: None,
) -> EnginePlan:
    """Locate the model and resolve every `auto` and default.

    Raises:
        SettingsError: a setting does not fit the model.
        ModelError: the model cannot be found or prepared.
    """
    model = await locate_model(
        settings,
        engine_python=preflight.installation.python,
        environ=engine_environment(settings, preflight.installation, environment.merged),
        on_progress=on_progress,
    )
    return plan_for(model, settings, environment, preflight)


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
    settings: Settings, environment: Environment, preflight: Preflight, plan: EnginePlan, socket: Path
) -> EngineCommand:
    """Return the engine's command for a plan, and write the files that it needs."""
    installation = preflight.installation
    folder = site_folder(settings.cache_dir)
    if installation.distribution != "vllm":
        write_metadata(folder, installation.version)
    write_shims(folder, installation.needs_shims)
    return build_command(
        settings,
        installation,
        plan,
        socket=socket,
        environ=environment.merged | socket_variables(environment.merged),
        flags=preflight.flags,
    )


def hub_files(listing: Listing, preflight: Preflight) -> WantedFiles | None:
    """Return which of a repository's files vLLM will fetch; None where the hub did not tell."""
    wanted = wanted_files(listing, flag_value(preflight.flags, "load-format") or "auto")
    return wanted if wanted.weights else None


def resolve_hub_cache(preflight: Preflight, plan: EnginePlan) -> HubCache | None:
    """Return where the model's files come to; None where nothing is fetched."""
    listing = plan.model.listing
    if listing is None:
        return None
    chosen = flag_value(preflight.flags, "download-dir")
    folder = Path(chosen) / listing.folder.name if chosen else listing.folder
    return HubCache(folder, hub_files(listing, preflight))


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
