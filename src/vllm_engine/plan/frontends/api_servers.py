"""How many of vLLM's API servers may serve one engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vllm_engine.plan.engine_command import is_switched_on
from vllm_engine.system.device import Device

MAX_AUTO = 4
CORES_PER_API_SERVER = 3
"""vLLM's Python API server is one busy process at some 14,000 tokens/s on an H100, and four of them bring 1.6
times the tokens (docs/measured/gpu.md). Each takes a core, and leaves two to the engine and the gateway."""

_FLAGS = ("enable-elastic-ep", "enable-fault-tolerance")
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
