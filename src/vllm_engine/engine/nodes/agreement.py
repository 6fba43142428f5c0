"""What has to be the same on every node: otherwise vLLM's processes wait for each other, or fail late."""

from __future__ import annotations

from collections.abc import Mapping

from vllm_engine.config.flags import mask
from vllm_engine.plan.preflight import Preflight

_SAME = (
    *("model_id", "model_revision", "dtype", "max_model_len", "gpu_memory_utilization"),
    *("tensor_parallel", "pipeline_parallel", "data_parallel", "nodes", "head_port"),
)
_FLAGS = "vLLM's flags"
_MOST_SHOWN = 200
"""Characters of a value: what a stranger sends ends in the head's log."""


def agreement(preflight: Preflight) -> dict[str, str]:
    """Return the settings that the nodes compare, by name; they are sent and shown, so without passwords."""
    settings = preflight.settings
    flags = [flag for flag in preflight.flags if flag.replace("_", "-") != "--headless"]
    values = {name.upper(): getattr(settings, name) for name in _SAME}
    return {
        "vLLM": preflight.installation.version,
        **{name: "" if value is None else str(value) for name, value in values.items()},
        _FLAGS: " ".join(mask(flags)),
    }


def difference(ours: Mapping[str, str], theirs: Mapping[str, object], rank: int) -> str | None:
    """Say what a node has otherwise than the head; None if nothing."""
    for name, value in ours.items():
        if str(theirs.get(name)) != value:
            verb = "are" if name == _FLAGS else "is"
            said = f"{name} {verb} {_shown(theirs.get(name))} on node {rank} and {_shown(value)} on the head"
            return f"{said}; every node needs the same"
    return None


def _shown(value: object) -> str:
    text = str(value or "not set")
    return (text if text.isprintable() else repr(text))[:_MOST_SHOWN]
