"""The program's settings as chart values: which a values file may set, and which value sets the others."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import WithJsonSchema

from vllm_engine.config.settings import Settings, legal

SET_BY = {
    "MODEL_ID": "model.id",
    "MODEL_REVISION": "model.revision",
    "SERVED_MODEL_NAME": "model.servedNames",
    "MAX_MODEL_LEN": "model.maxLength",
    "TENSOR_PARALLEL": "parallel.tensor",
    "PIPELINE_PARALLEL": "parallel.pipeline",
    "DATA_PARALLEL": "parallel.data",
    "NODES": "multiNode.nodes",
    "NODE_RANK": "multiNode",
    "HEAD_ADDRESS": "multiNode",
    "HF_TOKEN": "hfToken",
    "API_KEYS": "apiKeys",
    "API_KEYS_FILE": "apiKeys",
    "TLS_CERT_FILE": "tls.existingSecret",
    "TLS_KEY_FILE": "tls.existingSecret",
    "VLLM_EXTRA_ARGS": "extraArgs",
    "LAME_DUCK_SECONDS": "shutdown.lameDuckSeconds",
    "DRAIN_TIMEOUT_SECONDS": "shutdown.drainTimeoutSeconds",
}
"""Settings with a value of their own, which `settings` therefore refuses."""
FIXED = frozenset(
    (
        *("PORT", "HEALTH_PORT", "CACHE_DIR", "TERMINATION_LOG"),
        *("ENGINE_PYTHON", "BUILD_SHA", "BUILD_TIME"),
        *("ENABLE_SSHD", "PUBLIC_KEY", "SSH_PORT"),
    )
)
"""Settings that belong to the image and to the chart's ports and volumes; sshd needs a container that starts as root."""


def settable() -> list[str]:
    """Return the settings that `settings` takes, in the program's order."""
    names = [name.upper() for name in Settings.model_fields]
    return [name for name in names if name not in FIXED | SET_BY.keys()]


def _schema() -> dict[str, Any]:
    properties = {}
    for name in settable():
        text = " ".join((Settings.model_fields[name.lower()].description or "").split())
        properties[name] = {
            "type": ["string", "number", "boolean"],
            "description": f"{text} ({legal(name)})".replace("`", ""),
        }
    return {"type": "object", "properties": properties, "additionalProperties": False}


ProgramSettings = Annotated[dict[str, str | float | bool], WithJsonSchema(_schema())]
