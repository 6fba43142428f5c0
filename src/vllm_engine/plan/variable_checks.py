"""Checks variables beside our settings: misspelt names, vLLM's flags, and what vLLM's libraries read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from vllm_engine.config.environment import Environment
from vllm_engine.config.flags import ENV_NAMES_NOT_TAKEN, CheckedFlags, FlagCatalogue, env_name
from vllm_engine.config.other_engines import ELSEWHERE, ENGINE_KEY, SAME
from vllm_engine.config.quoting import stray_in_words
from vllm_engine.config.redaction import masked
from vllm_engine.config.settings import Settings
from vllm_engine.config.spelling import Misspelt, misspelt
from vllm_engine.errors import Problem
from vllm_engine.plan.engine_command import OWN_FLAGS, RESERVED_FLAGS, mentioned_flags

_OURS = frozenset(name.upper() for name in Settings.model_fields)
_LIBRARIES = ("CUDA_", "HF_", "HUGGING", "NCCL_", "NVIDIA_", "OTEL_", "TORCH", "TRITON_", "VLLM_")
"""Beginnings of the names that vLLM and its libraries read by themselves."""


def check_names(environment: Environment, catalogue: FlagCatalogue) -> tuple[list[Misspelt], list[Misspelt]]:
    """List the names that are almost a setting's: ignored, they would serve another model than was meant.

    Returns problems and warnings.
    """
    known = {*ELSEWHERE, *SAME, *catalogue.by_env_name, *ENV_NAMES_NOT_TAKEN}
    given = {**environment.process, **environment.options}
    return misspelt(given, environment.dotenv, ours=_OURS, known=known)


def check_flags(
    settings: Settings, environ: Mapping[str, str], catalogue: FlagCatalogue, options: Sequence[str] = ()
) -> CheckedFlags:
    """Check the flags given by name, in `VLLM_EXTRA_ARGS` and as options, and what libraries read."""
    quoted = _quoted(environ, {*catalogue.by_env_name} - _OURS)
    environ = {key: value for key, value in environ.items() if key not in {each.key for each in quoted}}
    named = catalogue.from_environment(environ, reserved={**RESERVED_FLAGS, **OWN_FLAGS})
    raw = catalogue.check_extra_args(settings.vllm_extra_args, reserved=RESERVED_FLAGS)
    given = catalogue.check_options(options, reserved=RESERVED_FLAGS)
    known = _OURS | ELSEWHERE.keys() | SAME.keys()
    near = catalogue.near_misses(environ, known=known)
    given_names = {env_name(name) for name in mentioned_flags([*raw.argv, *given.argv])}
    ignored = catalogue.not_taken(environ, known=known | given_names)
    owned = [
        Problem(key, environ[key], f"is not read; set {RESERVED_FLAGS[flag.name]} instead")
        for key, flag in catalogue.by_env_name.items()
        if environ.get(key) and flag.name in RESERVED_FLAGS and key not in _OURS
    ]
    return CheckedFlags(
        argv=named.argv + raw.argv + given.argv,
        variables=named.variables,
        problems=[
            *quoted,
            *named.problems,
            *raw.problems,
            *given.problems,
            *owned,
            *_check_engine_key(environ),
        ],
        warnings=[*named.warnings, *raw.warnings, *given.warnings, *near, *ignored],
    )


def _quoted(environ: Mapping[str, str], flags: Collection[str]) -> list[Problem]:
    # Their readers would take the quotes for part of the value, and create a folder of that name.
    return [
        Problem(key, masked(key, value), found)
        for key, value in environ.items()
        if (key in flags or key.startswith(_LIBRARIES)) and (found := stray_in_words(value))
    ]


def _check_engine_key(environ: Mapping[str, str]) -> list[Problem]:
    # With a key of its own vLLM would refuse our probes, and leave some of its routes open all the same.
    why = "is not read, as a key with a comma or a space cannot be; put it into API_KEYS_FILE, hashed"
    return [Problem(ENGINE_KEY, "***", why)] if environ.get(ENGINE_KEY) else []
