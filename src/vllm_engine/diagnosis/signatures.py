"""The catalogue: every cause that can be told, in the order in which they are tried on one line."""

from __future__ import annotations

from vllm_engine.diagnosis.gpu import GPU
from vllm_engine.diagnosis.host import HOST
from vllm_engine.diagnosis.hub import HUB
from vllm_engine.diagnosis.memory import MEMORY
from vllm_engine.diagnosis.model import MODEL
from vllm_engine.diagnosis.own import OWN
from vllm_engine.diagnosis.signature import Signature

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
