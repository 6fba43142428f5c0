"""What has to be the same on every node: otherwise vLLM's processes wait for each other, or fail late."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_engine.plan.preflight import Preflight

_SAME = (
    *("model_id", "model_revision", "dtype", "max_model_len", "gpu_memory_utilization"),
    *("tensor_parallel", "pipeline_parallel", "data_parallel", "nodes", "head_port"),
)
_FLAGS = "flags of vLLM's"


def agreement(preflight: Preflight) -> dict[str, str]:
    """Return the settings that the nodes compare, by name."""
    settings = preflight.settings
    flags = [flag for flag in preflight.flags if flag.replace("_", "-") != "--headless"]
    return {
        "vLLM": preflight.installation.version,
        **{name.upper(): str(getattr(settings, name)) for name in _SAME},
        _FLAGS: " ".join(flags),
    }


def difference(ours: Mapping[str, str], theirs: Mapping[str, object], rank: int) -> str | None:
    """Say what a node has otherwise than the head; None if nothing."""
    for name, value in ours.items():
        if str(theirs.get(name)) != value:
            theirs_is = f"{name} is {theirs.get(name) or 'not set'} on node {rank}"
            return f"{theirs_is} and {value or 'not set'} on the head; every node needs the same"
    return None
