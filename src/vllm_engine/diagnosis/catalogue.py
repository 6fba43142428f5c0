"""The catalogue: every cause that can be told, in the order in which they are tried on one line."""

from __future__ import annotations

from vllm_engine.diagnosis.gpu_failures import GPU
from vllm_engine.diagnosis.host_failures import HOST
from vllm_engine.diagnosis.hub_failures import HUB
from vllm_engine.diagnosis.memory_failures import MEMORY
from vllm_engine.diagnosis.model_failures import MODEL
from vllm_engine.diagnosis.signature import Signature
from vllm_engine.diagnosis.unlogged_failures import OWN

GROUPS: dict[str, tuple[Signature, ...]] = {
    "Memory": MEMORY,
    "GPU": GPU,
    "Hub and cache": HUB,
    "Model": MODEL,
    "Host and flags": HOST,
    "This program": OWN,
}
"""The catalogue as the documentation shows it."""

CATALOGUE: tuple[Signature, ...] = tuple(entry for group in GROUPS.values() for entry in group)
BY_CODE: dict[str, Signature] = {entry.code: entry for entry in CATALOGUE}
