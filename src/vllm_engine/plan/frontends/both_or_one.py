"""Whether both of vLLM's frontends serve the engine, or which one, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm_engine.config.flags import env_name
from vllm_engine.config.redaction import masked
from vllm_engine.errors import Problem
from vllm_engine.plan.engine_command import flag_value, is_switched_on, tracing_gap
from vllm_engine.plan.engine_plan import BOTH, PYTHON, RUST, Choice
from vllm_engine.plan.frontends.api_servers import needs_one
from vllm_engine.plan.frontends.rust_binary import RUST_VARIABLE

if TYPE_CHECKING:
    from vllm_engine.plan.engine_installation import Installation
    from vllm_engine.plan.preflight import Preflight  # which asks here what is wrong

_OTHER_BINARY = "VLLM_RUST_FRONTEND_PATH"
_SET_UP = "run `make setup FRONTEND=rust`"
_ONE_FRONTEND = ("headless", "data-parallel-external-lb", "data-parallel-hybrid-lb")


def choose_frontend(preflight: Preflight) -> Choice:
    """Return which frontends run.

    What can only be known from vLLM itself is found by its launcher, which falls back to the Python frontend.
    """
    asked = preflight.settings.engine_frontend
    source = preflight.environment.source("ENGINE_FRONTEND") or "default"
    if asked not in ("auto", BOTH):
        return Choice(asked, source)
    if asked == "auto" and preflight.device.kind != "cpu":
        return Choice(PYTHON, "auto: both frontends are not proven on GPUs yet; try ENGINE_FRONTEND=both")
    if why := obstacle_to_both(preflight):
        return Choice(PYTHON, f"{asked}: {why}")
    return Choice(BOTH, source if asked == BOTH else "auto: on CPU, with the Rust frontend of this vLLM")


def obstacle_to_both(preflight: Preflight) -> str | None:
    """Say why not both frontends can run, as far as it is known before the start; None if they can."""
    obstacles = (each(preflight) for each in (_binary, _settings, _flags))
    return next(filter(None, obstacles), None)


def _binary(preflight: Preflight) -> str | None:
    named = f"{_OTHER_BINARY} names another binary" if _other_binary(preflight) else None
    return _own_binary(preflight.installation) or named


def _own_binary(installation: Installation) -> str | None:
    """Say why the binary that belongs to this vLLM cannot serve; None if it can."""
    if installation.rust_frontend is None:
        return "this vLLM lacks the Rust frontend's binary"
    if installation.rust_fault:
        return f"vllm-rs does not say its version ({installation.rust_fault})"
    version = installation.version.partition("+")[0]  # which build it is does not matter
    if installation.rust_version != version:
        return f"vllm-rs is of version {installation.rust_version or 'unknown'}, vLLM of {version}"
    return None


def _other_binary(preflight: Preflight) -> bool:
    return preflight.environment.merged.get(_OTHER_BINARY, "") not in ("", "auto")


def _settings(preflight: Preflight) -> str | None:
    settings = preflight.settings
    for name, several in (("NODES", settings.nodes), ("DATA_PARALLEL", settings.data_parallel)):
        if several > 1:
            return f"{name}={several} needs the Python frontend alone"
    if settings.api_server_count not in ("auto", 1):
        return f"API_SERVER_COUNT={settings.api_server_count} needs the Python frontend alone"
    if settings.traces_url is not None and tracing_gap(settings, preflight.installation) is None:
        return "OTLP_ENDPOINT is set, and the Rust frontend makes no spans"
    return None


def _flags(preflight: Preflight) -> str | None:
    flags = preflight.flags
    on = (f"--{name}" for name in _ONE_FRONTEND if is_switched_on(flags, name))
    if alone := needs_one(flags, preflight.environment.merged) or next(on, None):
        return f"{alone} works with one frontend only"
    if preflight.rust_refuses:
        return f"the Rust frontend does not implement --{preflight.rust_refuses[0]}"
    if flag_value(flags, "runner") == "pooling":
        return "--runner pooling: the Rust frontend serves models that generate"
    return None


def check_frontend(preflight: Preflight) -> list[Problem]:
    """List why the Rust frontend alone, if that is wanted, could not start."""
    if preflight.settings.engine_frontend != RUST:
        return []
    if not _other_binary(preflight) and (why := _own_binary(preflight.installation)):
        return [Problem("ENGINE_FRONTEND", RUST, f"{why}; {_SET_UP}, or set python")]
    remedy = "the Rust frontend does not implement --{}; unset it, or set ENGINE_FRONTEND to both or python"
    return [Problem(key, value, remedy.format(name)) for name, key, value in _refused(preflight)]


def frontend_warnings(preflight: Preflight) -> list[str]:
    """Say what the Rust frontend alone lacks, and why both, if they are asked for, do not run."""
    asked = preflight.settings.engine_frontend
    if asked == RUST:
        return ["ENGINE_FRONTEND=rust lacks n > 1, /v1/responses and /v1/messages; both has all of the API"]
    found = []
    if preflight.environment.merged.get(RUST_VARIABLE):
        found.append(f"{RUST_VARIABLE} is not passed on to vLLM: set ENGINE_FRONTEND=rust")
    if asked == BOTH and (why := obstacle_to_both(preflight)):
        remedy = remedy_for_both(preflight)
        to_have = f"; {remedy} to have both" if remedy else ""
        found.append(f"ENGINE_FRONTEND=both: the Python frontend will serve alone: {why}{to_have}")
    return found


def remedy_for_both(preflight: Preflight) -> str:
    """Return what to do about the obstacle to both, as far as that is not plain from its name."""
    if _own_binary(preflight.installation):
        return _SET_UP
    given = " and ".join(key for _, key, _ in _refused(preflight))
    return f"unset {given}" if given else ""


def _refused(preflight: Preflight) -> Iterator[tuple[str, str, str]]:
    """Yield each flag of the user's that the Rust frontend refuses, what gave it, and its value as shown."""
    for name in preflight.rust_refuses:
        option, key = f"--{name}", env_name(f"--{name}")
        if key in preflight.flag_variables:
            yield name, key, masked(key, preflight.environment.merged[key])
        elif option in preflight.settings.vllm_extra_args.replace("_", "-"):
            yield name, "VLLM_EXTRA_ARGS", option
        else:
            yield name, option, ""
