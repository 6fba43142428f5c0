"""Everything that can be known to be wrong before anything is started."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vllm_engine.config.environment import Environment
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.library_variables import check_hub_access, check_propagators, check_temporary
from vllm_engine.config.other_engines import unread
from vllm_engine.config.settings import Settings
from vllm_engine.errors import Diagnosis, Problem, SettingsError, StartupError, told_once
from vllm_engine.models.bundled import bundled_names, is_bundled
from vllm_engine.models.engine_script import EnginePython
from vllm_engine.plan.engine_command import engine_environment, flag_value, mentioned_flags, tracing_gap
from vllm_engine.plan.engine_installation import Installation, find_engine_python, inspect_installation
from vllm_engine.plan.frontends.api_servers import most_api_servers, needs_one
from vllm_engine.plan.frontends.both_or_one import check_frontend, frontend_warnings
from vllm_engine.plan.frontends.rust_binary import unimplemented
from vllm_engine.plan.parallel.parallel_checks import check_parallel
from vllm_engine.plan.parser_choice import check_parsers
from vllm_engine.plan.variable_checks import check_flags, check_names
from vllm_engine.system.device import Device, find_device


@dataclass(frozen=True)
class Preflight:
    """What the user asks for and what it was checked against: the engine's installation and its device."""

    settings: Settings
    environment: Environment
    installation: Installation
    device: Device
    flags: tuple[str, ...] = ()
    """The user's vLLM flags as arguments, checked."""
    flag_variables: tuple[str, ...] = ()
    """The upper-case names by which some of them were given."""
    rust_refuses: tuple[str, ...] = ()
    """The names of those that the Rust frontend does not implement, where it may run."""
    warnings: tuple[str, ...] = ()
    """For the log: settings that are legal but perhaps not intended."""

    @property
    def mentioned_flags(self) -> frozenset[str]:
        """Names of the flags that the user gave, on or off, without dashes or a leading `no-`."""
        return mentioned_flags(self.flags)

    @property
    def download_dir(self) -> str:
        """The hub client's cache that the user's vLLM flags name; empty for the usual one."""
        return flag_value(self.flags, "download-dir") or ""

    @property
    def engine_python(self) -> EnginePython:
        """The engine's Python with the environment that the engine gets."""
        environ = engine_environment(self.settings, self.installation, self.environment.merged)
        return EnginePython(self.installation.python, environ)


def run_preflight(
    settings: Settings, environment: Environment, prefix: Path, others: Sequence[Problem] = ()
) -> Preflight:
    """Check settings against this machine and the installed vLLM, in well under a second.

    `prefix` is `sys.prefix` of the gateway's own environment; `others` are problems found elsewhere, to be
    reported together.

    Raises:
        SettingsError: one or more settings cannot work here; all are listed.
        StartupError: vLLM needs a GPU and none is visible.
    """
    preflight, problems = inspect(settings, environment, prefix, others)
    if problems:
        raise SettingsError(problems)
    if preflight.device.kind == "cuda" and not preflight.device.gpus:
        raise StartupError(
            Diagnosis(
                code="no-gpu",
                message="no GPU is visible, and this vLLM needs one",
                remedy="give the container its GPUs (docker run --gpus all) or use the CPU build",
            )
        )
    return preflight


def inspect(
    settings: Settings, environment: Environment, prefix: Path, others: Sequence[Problem] = ()
) -> tuple[Preflight, tuple[Problem, ...]]:
    """Inspect the machine, the installed vLLM and the user's flags; return also what cannot work.

    Raises:
        SettingsError: there is no vLLM to inspect.
    """
    environ = environment.merged
    unusable, useless = check_hub_access(settings, environ)
    problems = [
        *others,
        *check_propagators(environment.process),
        *_check_cache_dir(settings.cache_dir),
        *unusable,
        *_check_model_name(settings),
    ]
    try:
        installation = inspect_installation(find_engine_python(settings, prefix))
    except SettingsError as error:
        # Without a vLLM the flags are checked against those of the newest that is known.
        catalogue = FlagCatalogue.load("")
        misspelt, _ = check_names(environment, catalogue)
        flags = check_flags(settings, environ, catalogue, environment.flags)
        raise SettingsError([*problems, *error.problems, *misspelt, *flags.problems]) from error
    device = find_device(installation.kind, environ)
    catalogue = FlagCatalogue.load(installation.version)
    flags = check_flags(settings, environ, catalogue, environment.flags)
    misspelt, similar = check_names(environment, catalogue)
    problems += [
        *check_device(settings, device),
        *check_idle_stop(settings, environ),
        *misspelt,
        *flags.problems,
    ]
    warnings = (
        *environment.notes,
        *useless,
        *check_temporary(environ),
        *warnings_about(settings, installation),
        *unread(environ),
        *map(str, [*similar, *flags.warnings]),
    )
    argv, variables = tuple(flags.argv), tuple(flags.variables)
    refused = _refused_by_rust(settings, installation, argv)
    found = Preflight(settings, environment, installation, device, argv, variables, refused, warnings)
    found = replace(found, warnings=(*frontend_warnings(found), *warnings))
    parsers = check_parsers(settings, installation, argv)
    others_here = [*check_frontend(found), *_check_api_servers(found), *check_parallel(found)]
    return found, told_once([*problems, *others_here, *parsers])


def warnings_about(settings: Settings, installation: Installation) -> list[str]:
    """Return warnings for the log about settings that are legal but perhaps not intended."""
    found = []
    has_keys = settings.api_keys is not None or settings.api_keys_file is not None
    if not (has_keys or settings.is_worker or _is_loopback(settings.host)):
        found.append(
            f"anyone who can reach HOST={settings.host} may use the model, as no API key is required; "
            "set API_KEYS or API_KEYS_FILE, or HOST=127.0.0.1"
        )
    if has_keys and settings.health_port is not None and settings.metrics_public is None:
        found.append(
            f"/metrics on PORT={settings.port} needs a key, since HEALTH_PORT={settings.health_port} is set, "
            "where it needs none; set METRICS_PUBLIC=1 to open it on PORT too (an endpoint picker reads it "
            "there), or METRICS_PUBLIC=0 to keep it so without this warning"
        )
    if settings.otlp_endpoint and (gap := tracing_gap(settings, installation)):
        found.append(f"OTLP_ENDPOINT: traces contain the gateway's spans but not the engine's: {gap}")
    return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_cache_dir(cache_dir: Path) -> list[Problem]:
    """Create `CACHE_DIR` and prove that it can be written."""
    probe = cache_dir / f".write-test-{os.getpid()}"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        remedy = (
            f"cannot be written by uid {os.getuid()} ({error.strerror}); "
            "make it writable or set another CACHE_DIR"
        )
        return [Problem("CACHE_DIR", str(cache_dir), remedy)]
    return []


def check_device(settings: Settings, device: Device) -> list[Problem]:
    """List the settings that this device cannot fulfil."""
    problems = []
    if settings.dtype == "bfloat16" and device.gpus and not device.supports_bfloat16:
        remedy = f"{device.name} has no bfloat16; set DTYPE=float16 or auto"
        problems.append(Problem("DTYPE", "bfloat16", remedy))
    return problems


def check_idle_stop(settings: Settings, environ: Mapping[str, str]) -> list[Problem]:
    """List why an engine of these settings must not be stopped for being idle."""
    if not settings.idle_stop_seconds:
        return []
    reasons = []
    if not settings.replay_timeout_seconds:
        reasons.append("set REPLAY_TIMEOUT_SECONDS above 0: so long a request may wait for its start")
    if settings.nodes > 1:
        reasons.append(f"only one machine can do that, and NODES={settings.nodes}; unset it")
    stores = "VLLM_ENABLE_RESPONSES_API_STORE"
    if environ.get(stores, "").strip() not in ("", "0"):
        reasons.append(f"the responses that {stores}=1 keeps in the engine would be lost; unset one of them")
    return [Problem("IDLE_STOP_SECONDS", f"{settings.idle_stop_seconds:g}", why) for why in reasons]


def _check_model_name(settings: Settings) -> list[Problem]:
    known = tuple(f"bundled:{name}" for name in bundled_names())
    if is_bundled(settings.model_id) and settings.model_id not in known:
        return [Problem("MODEL_ID", settings.model_id, f"no such bundled model; there is {', '.join(known)}")]
    return []


def _refused_by_rust(settings: Settings, installation: Installation, flags: Sequence[str]) -> tuple[str, ...]:
    if settings.engine_frontend == "python" or installation.rust_frontend is None or installation.rust_fault:
        return ()
    on = [flag for flag in flags if not flag.startswith("--no-")]
    return unimplemented(installation.rust_frontend, sorted(mentioned_flags(on)))


def _check_api_servers(preflight: Preflight) -> list[Problem]:
    asked, device = preflight.settings.api_server_count, preflight.device
    if isinstance(asked, str) or asked == 1:
        return []
    most = most_api_servers(device)
    if preflight.settings.engine_frontend == "rust":
        why = "the Rust frontend is one process; leave it unset, or set ENGINE_FRONTEND=python"
    elif alone := needs_one(preflight.flags, preflight.environment.merged):
        why = f"{alone} works with one only; unset either"
    elif asked > most:
        why = f"each keeps a core busy, and there are {device.cores}; set {most} or less, or auto"
    else:
        return []
    return [Problem("API_SERVER_COUNT", str(asked), why)]
