"""Gathers facts from the system, the model and the hub, and runs the checks on them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vllm_engine.client.api_client import Client, Server, ServerError
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings
from vllm_engine.doctor.check import Check, fail, ok
from vllm_engine.doctor.machine_checks import (
    PARALLEL_KEYS,
    cache_check,
    device_check,
    driver_check,
    dtype_check,
    files_check,
    free_gpu_memory_check,
    frontend_check,
    port_check,
    shm_check,
    space_check,
)
from vllm_engine.doctor.model_checks import memory_check, template_check, token_check
from vllm_engine.errors import ModelError, Problem, SettingsError
from vllm_engine.gateway.http.listening_sockets import listen
from vllm_engine.gateway.settings_check import check_gateway
from vllm_engine.models.bundled import is_bundled
from vllm_engine.models.engine_scripts.hub_files import WantedFiles
from vllm_engine.models.model_source import HubAccount, Model, ask_hub_account
from vllm_engine.plan.engine_command import flag_number, flag_value
from vllm_engine.plan.engine_plan import EnginePlan
from vllm_engine.plan.frontends.both_or_one import choose_frontend, remedy_for_both
from vllm_engine.plan.model_files import files_of
from vllm_engine.plan.parallel.ranks import Ranks
from vllm_engine.plan.preflight import Preflight, inspect
from vllm_engine.plan.resolve import resolve_plan
from vllm_engine.sizing.batches import batch_limits
from vllm_engine.sizing.kv_cache import kv_value_bytes, loaded_bytes
from vllm_engine.sizing.room import Room
from vllm_engine.system.device import free_memory_bytes, nvidia_driver
from vllm_engine.system.file_limit import highest_file_limit

_OWN = ("CACHE_DIR", "DTYPE", "HOST", *PARALLEL_KEYS, "TLS_CERT_FILE", "TLS_KEY_FILE")
"""Settings whose problems a check reports; a problem with any other is an invalid setting."""

_ANSWER_SECONDS = 5.0
_SHM = Path("/dev/shm")  # noqa: S108 - only its size is read


async def examine(
    settings: Settings,
    environment: Environment,
    prefix: Path,
    illegal: Sequence[Problem] = (),
    server: Server | None = None,
) -> list[Check]:
    """Run every check. Asks the hub; downloads only the model's configuration files.

    `illegal` are values that cannot be read, in whose place `settings` has defaults. `server` is how the
    server of these settings is reached, if it runs already.

    Raises:
        SettingsError: a setting is invalid.
    """
    preflight, problems = inspect(settings, environment, prefix, [*illegal, *check_gateway(settings)])
    if illegal or any(problem.key not in _OWN for problem in problems):
        raise SettingsError(problems)
    checks = [
        device_check(preflight.device, problems),
        dtype_check(settings, preflight.device, problems),
        frontend_check(settings.engine_frontend, choose_frontend(preflight), remedy_for_both(preflight)),
        *machine_checks(preflight),
        await _port(settings, server),
        cache_check(settings.cache_dir, problems),
    ]
    if problems:
        return checks
    return checks + await _model_checks(preflight)


def machine_checks(preflight: Preflight) -> list[Check]:
    """Run the fast checks, without network access; `serve` logs what they find before it starts."""
    settings, device = preflight.settings, preflight.device
    devices = max(1, len(device.gpus)) if settings.tensor_parallel == "auto" else Ranks.of(settings).here
    return [
        driver_check(device, nvidia_driver() if device.kind == "cuda" else None, preflight.installation.cuda),
        free_gpu_memory_check(device.gpus[:devices], settings.gpu_memory_utilization),
        shm_check(_shm_bytes(), devices),
        files_check(highest_file_limit(), settings),
    ]


async def _model_checks(preflight: Preflight) -> list[Check]:
    settings = preflight.settings
    account = await _account(preflight)
    token = token_check(settings, account)
    try:
        plan = await resolve_plan(preflight)
    except ModelError as error:
        what, remedy = error.diagnosis.message, error.diagnosis.remedy
        return [token, fail("model", what, remedy or "correct MODEL_ID")]
    model = plan.model
    wanted = files_of(model, preflight)
    free = _free_disk_bytes(settings.cache_dir)
    return [
        token,
        ok(
            "model",
            f"{settings.model_id} is available" + (f", commit {model.revision}" if model.revision else ""),
        ),
        space_check(settings.cache_dir, free, _missing_bytes(model, wanted)),
        memory_check(room_of(preflight, plan, wanted)),
        template_check(_has_template(preflight, model, account)),
    ]


async def _account(preflight: Preflight) -> HubAccount | None:
    settings = preflight.settings
    if settings.is_local_model or is_bundled(settings.model_id):
        return None
    try:
        return await ask_hub_account(settings, preflight.engine_python)
    except ModelError:
        return None  # the model's own check reports the same


def _missing_bytes(model: Model, wanted: WantedFiles | None) -> int | None:
    if model.listing is None or model.folder is None:
        return 0
    if wanted is None:
        return None
    return sum(file.size for file in wanted.weights if not file.is_in(model.folder))


def room_of(preflight: Preflight, plan: EnginePlan, wanted: WantedFiles | None) -> Room:
    """Return the memory that the engine may use, and what of this model has to fit there."""
    device, length = preflight.device, plan.max_model_len.value
    stored = wanted.weight_bytes if wanted else None
    ranks = Ranks.of(preflight.settings, int(plan.tensor_parallel.value))
    is_plain = ranks.world == ranks.tensor and ranks.nodes == 1
    given = flag_number(preflight.flags, "kv-cache-memory-bytes")
    return Room(
        budget_bytes=_budget_bytes(preflight, ranks.here, is_cache_given=given is not None),
        weight_bytes=None if stored is None else loaded_bytes(stored, plan.model.config, plan.dtype.value),
        config=plan.model.config,
        max_model_len=int(length) if length.isdigit() else None,
        kv_value_bytes=kv_value_bytes(
            flag_value(preflight.flags, "kv-cache-dtype"), plan.dtype.value, plan.model.config
        ),
        kv_bytes=int(plan.kv_cache_bytes.value) if plan.kv_cache_bytes else given,
        tensor_parallel=ranks.tensor,
        pipeline_parallel=ranks.pipeline,
        most_devices=max(1, len(device.gpus)) if is_plain else ranks.replica,
        in_flight_tokens=_in_flight_tokens(preflight),
    )


def _in_flight_tokens(preflight: Preflight) -> int:
    device = preflight.device
    memory = min((gpu.memory_bytes for gpu in device.gpus), default=0)
    limits = batch_limits(memory, device.name, is_cpu=device.kind == "cpu")
    given = flag_number(preflight.flags, "max-num-batched-tokens")
    limits = replace(limits, tokens=given) if given else limits
    return limits.in_flight_tokens(preflight.settings.pipeline_parallel)


def _budget_bytes(preflight: Preflight, devices: int, *, is_cache_given: bool) -> float:
    """Return what the engine may use of each device.

    `GPU_MEMORY_UTILIZATION` does not bound a cache whose size is given.
    """
    gpus = preflight.device.gpus
    if not gpus:
        return free_memory_bytes() / devices
    if is_cache_given:
        return min(gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes for gpu in gpus[:devices])
    return min(gpu.memory_bytes for gpu in gpus) * preflight.settings.gpu_memory_utilization


def _has_template(preflight: Preflight, model: Model, account: HubAccount | None) -> bool | None:
    if "chat-template" in preflight.mentioned_flags or is_bundled(preflight.settings.model_id):
        return True
    if account is not None:
        return account.has_template
    folder = Path(model.location)
    if any((folder / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return bool(tokenizer.get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return None


async def _port(settings: Settings, server: Server | None) -> Check:
    problems = _port_problems(settings)
    return port_check(settings, problems, await _running(server) if problems and server else None)


async def _running(server: Server) -> str | None:
    """Return the model of a server of ours; None if there is none."""
    try:
        async with Client(server) as client:
            body = (await client.ask("/healthz", seconds=_ANSWER_SECONDS)).body
    except ServerError:
        return None
    is_ours = isinstance(body, dict) and {"state", "phase", "model"} <= body.keys()
    return str(body["model"]) if is_ours else None


def _port_problems(settings: Settings) -> tuple[Problem, ...]:
    try:
        listen(settings).close()
    except SettingsError as error:
        return error.problems
    return ()


def _shm_bytes() -> int | None:
    try:
        found = os.statvfs(_SHM)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def _free_disk_bytes(folder: Path) -> int:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
