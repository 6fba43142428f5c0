"""Everything that can be known to be wrong before anything is started."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm_engine.config.environment import Environment
from vllm_engine.config.flags import ENV_NAMES_NOT_TAKEN, FlagCatalogue
from vllm_engine.config.library_variables import check_certificates, check_temporary
from vllm_engine.config.other_engines import ELSEWHERE, SAME, unread
from vllm_engine.config.quoting import stray_in_words
from vllm_engine.config.redaction import masked
from vllm_engine.config.settings import Settings
from vllm_engine.config.spelling import Misspelt, misspelt
from vllm_engine.errors import Diagnosis, Problem, SettingsError, StartupError
from vllm_engine.models.bundled import bundled_names, is_bundled
from vllm_engine.plan.engine_command import RESERVED_FLAGS, tracing_gap
from vllm_engine.plan.engine_installation import Installation, find_engine_python, inspect_installation
from vllm_engine.plan.engine_plan import check_device
from vllm_engine.system.device import Device, find_device

_LIBRARIES = ("CUDA_", "HF_", "HUGGING", "NCCL_", "NVIDIA_", "OTEL_", "TORCH", "TRITON_", "VLLM_")
"""Beginnings of the names that vLLM and its libraries read by themselves."""


@dataclass(frozen=True)
class Preflight:
    """What was found: the engine's installation, its device, and the user's own vLLM flags.

    Attributes:
        flags: the user's vLLM flags as arguments, checked.
        flag_variables: the upper-case names by which some of them were given.
        warnings: what is allowed and yet may not be meant, for the log.
    """

    installation: Installation
    device: Device
    flags: tuple[str, ...]
    flag_variables: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def flag_names(self) -> frozenset[str]:
        """Names of the flags the user gave, without dashes or a leading `no-`."""
        names = (token.split("=")[0].removeprefix("--") for token in self.flags if token.startswith("--"))
        return frozenset(name.replace("_", "-").removeprefix("no-") for name in names)


def run_preflight(settings: Settings, environment: Environment, prefix: Path) -> Preflight:
    """Check settings against this machine and the installed vLLM, in well under a second.

    Raises:
        SettingsError: one or more settings cannot work here; all are listed.
        StartupError: vLLM needs a GPU and none is visible.
    """
    preflight, problems = inspect(settings, environment, prefix)
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
    settings: Settings, environment: Environment, prefix: Path
) -> tuple[Preflight, tuple[Problem, ...]]:
    """Look at the machine, the installed vLLM and the user's flags; return also what cannot work.

    Raises:
        SettingsError: there is no vLLM to look at.
    """
    environ = environment.merged
    unusable, useless = check_certificates(settings, environ)
    problems = [*check_cache_dir(settings.cache_dir), *unusable]
    try:
        installation = inspect_installation(find_engine_python(settings, prefix))
    except SettingsError as error:
        raise SettingsError([*problems, *error.problems]) from error
    device = find_device(installation.kind, environ)
    problems += check_device(settings, device)
    problems += _check_model_name(settings)
    problems += _check_frontend(settings, installation)
    catalogue = FlagCatalogue.load(installation.version)
    problems += check_names(environment, catalogue)
    checked = _check_flags(settings, environ, catalogue)
    problems += _check_engine_key(environ)
    warnings = (
        *environment.notes,
        *useless,
        *check_temporary(environ),
        *warnings_about(settings),
        *untraced(settings, installation),
        *unread(environ),
        *checked.warnings,
    )
    preflight = Preflight(installation, device, checked.argv, checked.variables, warnings)
    return preflight, (*problems, *checked.problems)


def check_cache_dir(cache_dir: Path) -> list[Problem]:
    """Make `CACHE_DIR` and prove that it can be written; says who could not and what to do."""
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


def _check_model_name(settings: Settings) -> list[Problem]:
    known = tuple(f"bundled:{name}" for name in bundled_names())
    if is_bundled(settings.model_id) and settings.model_id not in known:
        return [Problem("MODEL_ID", settings.model_id, f"no such bundled model; there is {', '.join(known)}")]
    return []


def _check_engine_key(environ: Mapping[str, str]) -> list[Problem]:
    """A key of vLLM's own would keep out our probes, and leaves some of its routes open."""
    return (
        [Problem("VLLM_API_KEY", "***", "is not read; set API_KEYS")] if environ.get("VLLM_API_KEY") else []
    )


def warnings_about(settings: Settings) -> list[str]:
    """Return what is allowed and yet may not be meant, for the log."""
    found = []
    if settings.engine_frontend == "rust":
        found.append("ENGINE_FRONTEND=rust is experimental: no n > 1, no /v1/responses, no /v1/messages")
    if settings.api_keys is None and settings.api_keys_file is None and not _is_loopback(settings.host):
        found.append(
            f"whoever reaches HOST={settings.host} may use the model: no key is asked for; "
            "set API_KEYS or API_KEYS_FILE, or HOST=127.0.0.1"
        )
    return found


def untraced(settings: Settings, installation: Installation) -> list[str]:
    """Return what traces will lack, for the log."""
    gap = tracing_gap(settings, installation) if settings.otlp_endpoint else None
    return [f"OTLP_ENDPOINT: traces have the gateway's spans and not the engine's: {gap}"] if gap else []


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_frontend(settings: Settings, installation: Installation) -> list[Problem]:
    if settings.engine_frontend != "rust":
        return []
    problems = []
    if installation.rust_frontend is None:
        remedy = "this vLLM lacks the Rust frontend's binary; run `make setup FRONTEND=rust`, or set python"
        problems.append(Problem("ENGINE_FRONTEND", "rust", remedy))
    if settings.api_server_count not in ("auto", 1):
        remedy = "the Rust frontend is one process; leave it unset, or set ENGINE_FRONTEND=python"
        problems.append(Problem("API_SERVER_COUNT", str(settings.api_server_count), remedy))
    return problems


@dataclass(frozen=True)
class _Flags:
    argv: tuple[str, ...]
    variables: tuple[str, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def check_names(environment: Environment, catalogue: FlagCatalogue) -> list[Misspelt]:
    """List the names that miss one of ours: ignored, they would serve another model than was meant."""
    ours = {name.upper() for name in Settings.model_fields}
    known = {*ELSEWHERE, *SAME, *catalogue.by_env_name, *ENV_NAMES_NOT_TAKEN}
    return misspelt(environment.process, environment.dotenv, ours=ours, known=known)


def _check_flags(settings: Settings, environ: Mapping[str, str], catalogue: FlagCatalogue) -> _Flags:
    ours = {name.upper() for name in Settings.model_fields}
    known = ours | ELSEWHERE.keys() | SAME.keys()
    quoted = _quoted(environ, {*catalogue.by_env_name} - ours)
    environ = {key: value for key, value in environ.items() if key not in {each.key for each in quoted}}
    named = catalogue.from_environment(environ, reserved=RESERVED_FLAGS)
    raw = catalogue.check_extra_args(settings.vllm_extra_args, reserved=RESERVED_FLAGS)
    warnings = [*named.warnings, *raw.warnings, *catalogue.near_misses(environ, known=known)]
    given = {key: flag for key, flag in catalogue.by_env_name.items() if environ.get(key)}
    owned = {key: RESERVED_FLAGS[flag.name] for key, flag in given.items() if flag.name in RESERVED_FLAGS}
    return _Flags(
        argv=(*named.argv, *raw.argv),
        variables=tuple(key for key in given if key not in owned),
        problems=(
            *quoted,
            *named.problems,
            *raw.problems,
            *(
                Problem(key, environ[key], f"is not read; set {owner} instead")
                for key, owner in owned.items()
                if key not in ours
            ),
        ),
        warnings=tuple(map(str, warnings)),
    )


def _quoted(environ: Mapping[str, str], flags: Collection[str]) -> list[Problem]:
    """What reads them would take the quotes for a part of the value, and make a folder of that name."""
    return [
        Problem(key, masked(key, value), found)
        for key, value in environ.items()
        if (key in flags or key.startswith(_LIBRARIES)) and (found := stray_in_words(value))
    ]
