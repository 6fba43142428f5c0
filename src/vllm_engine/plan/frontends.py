"""Which of vLLM's frontends serve one engine, and how many of its Python API servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vllm_engine.config.settings import Settings
from vllm_engine.plan.engine_command import flag_number, flag_value, is_switched_on, tracing_gap
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.engine_plan import BOTH, PYTHON, Choice
from vllm_engine.system.device import Device

MAX_AUTO = 4
CORES_PER_API_SERVER = 3
"""vLLM's Python API server is one busy process at some 14,000 tokens/s on an H100, and four of them bring 1.6
times the tokens (docs/measured/gpu.md). Each takes a core, and leaves two to the engine and the gateway."""

_FLAGS = ("enable-elastic-ep", "enable-fault-tolerance")
_SEVERAL = ("data-parallel-size", "nnodes")
_ONE_FRONTEND = ("headless", "data-parallel-external-lb", "data-parallel-hybrid-lb")
_VARIABLES = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_ENABLE_RESPONSES_API_STORE")


def needs_one(flags: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return the user's flag or variable with which only one API server works; None if there is none.

    With several vLLM refuses to start, goes on with one, or keeps what it stores in that one which was asked
    (0.32, `entrypoints/cli/serve.py`, `config/parallel.py`, `entrypoints/openai/responses`).
    """
    given = [f"--{flag}" for flag in _FLAGS if is_switched_on(flags, flag)]
    on = [name for name in _VARIABLES if environ.get(name, "").strip().lower() in ("1", "true")]
    return next(iter((*given, *on)), None)


def most_api_servers(device: Device) -> int:
    """Return the greatest number that makes sense here: more than cores only take each other's time."""
    return max(MAX_AUTO, device.cores)


def automatic(device: Device) -> int:
    """Return how many a GPU machine has cores for, beside two for each GPU."""
    spare = (device.cores - 2 * len(device.gpus)) // CORES_PER_API_SERVER
    return min(MAX_AUTO, max(1, spare))


def choose_frontend(
    settings: Settings,
    installation: Installation,
    device: Device,
    flags: Sequence[str],
    environ: Mapping[str, str],
    source: Callable[[str], str | None],
) -> Choice:
    """Return which frontends run; `source` tells where a variable comes from.

    What can only be known from vLLM itself is found by its launcher, which falls back to the Python frontend.
    """
    asked = settings.engine_frontend
    if asked not in ("auto", BOTH):
        return Choice(asked, source("ENGINE_FRONTEND") or "default")
    if asked == "auto" and device.kind != "cpu":
        return Choice(PYTHON, "auto: both frontends are not proven on GPUs yet; try ENGINE_FRONTEND=both")
    if why := obstacle_to_both(settings, installation, flags, environ):
        return Choice(PYTHON, f"{asked}: {why}")
    if asked == BOTH:
        return Choice(BOTH, source("ENGINE_FRONTEND") or "default")
    return Choice(BOTH, "auto: on CPU, with the Rust frontend of this vLLM")


def obstacle_to_both(
    settings: Settings, installation: Installation, flags: Sequence[str], environ: Mapping[str, str]
) -> str | None:
    """Say why not both frontends can run, as far as it is known before the start; None if they can."""
    if installation.rust_frontend is None:
        return "this vLLM lacks the Rust frontend's binary"
    if installation.rust_version != installation.version:
        return (
            f"vllm-rs is of version {installation.rust_version or 'unknown'}, vLLM of {installation.version}"
        )
    if environ.get("VLLM_RUST_FRONTEND_PATH"):
        return "VLLM_RUST_FRONTEND_PATH names another binary"
    if settings.api_server_count not in ("auto", 1):
        return f"API_SERVER_COUNT={settings.api_server_count} is of the Python frontend alone"
    if settings.traces_url is not None and tracing_gap(settings, installation) is None:
        return "OTLP_ENDPOINT is set, and the Rust frontend makes no spans"
    if alone := needs_one(flags, environ):
        return f"{alone} works with one frontend only"
    several = next((name for name in _SEVERAL if (flag_number(flags, name) or 1) > 1), None)
    if several is not None:
        return f"--{several} is more than 1"
    if on := next((name for name in _ONE_FRONTEND if is_switched_on(flags, name)), None):
        return f"--{on} works with one frontend only"
    if flag_value(flags, "runner") == "pooling":
        return "--runner pooling: the Rust frontend serves models that generate"
    return None
