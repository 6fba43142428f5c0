"""Settings, machine and model together: the plan, and the command that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vllm_engine.device import free_memory_bytes
from vllm_engine.engine.command import EngineCommand, build_command, engine_environment
from vllm_engine.engine.compatibility import write_shims
from vllm_engine.engine.installation import alias_folder, write_alias
from vllm_engine.engine.plan import EnginePlan, plan_engine
from vllm_engine.models.bundled import ConvertProgress
from vllm_engine.models.source import locate_model
from vllm_engine.preflight import Preflight
from vllm_engine.settings import Environment, Settings


async def resolve_plan(
    settings: Settings,
    environment: Environment,
    preflight: Preflight,
    on_progress: Callable[[ConvertProgress], None] = lambda _: None,
) -> EnginePlan:
    """Locate the model and settle every `auto` and default.

    Raises:
        SettingsError: a setting does not fit the model.
        ModelError: the model cannot be had.
    """
    model = await locate_model(
        settings,
        engine_python=preflight.installation.python,
        environ=engine_environment(settings, preflight.installation, environment.merged),
        on_progress=on_progress,
    )
    return plan_engine(
        settings,
        source=environment.source,
        environ=environment.merged,
        device=preflight.device,
        model=model,
        free_memory_bytes=free_memory_bytes(),
        flags=preflight.flag_names,
    )


def resolve_command(
    settings: Settings, environment: Environment, preflight: Preflight, plan: EnginePlan, socket: Path
) -> EngineCommand:
    """Return the engine's command for a settled plan, and make what it refers to."""
    write_alias(preflight.installation, settings.cache_dir)
    write_shims(alias_folder(settings.cache_dir), preflight.installation.needs_shims)
    return build_command(
        settings,
        preflight.installation,
        plan,
        socket=socket,
        environ=environment.merged,
        flags=preflight.flags,
    )
