"""The catalogue: every known failure, in the order in which they are tried on one line."""

from __future__ import annotations

from vllm_engine.diagnosis.gpu_failures import GPU
from vllm_engine.diagnosis.host_failures import HOST
from vllm_engine.diagnosis.hub_failures import HUB
from vllm_engine.diagnosis.known_failure import KnownFailure
from vllm_engine.diagnosis.memory_failures import MEMORY
from vllm_engine.diagnosis.model_failures import MODEL
from vllm_engine.diagnosis.node_failures import NODES

OWN = (
    KnownFailure(
        code="bad-settings",
        seen="The program ends with status 2 before it starts anything, or soon after it has read the model.",
        cause="a setting cannot be used",
        remedy="each line names the setting, its value and what was expected",
    ),
    KnownFailure(
        code="model-unusable",
        seen='`MODEL_ID="…": …` before the engine starts.',
        cause="the model could not be found, fetched or prepared",
        remedy="the message says why; see also the entries on the hub",
    ),
    KnownFailure(
        code="cannot-start",
        seen="`the engine cannot be started: …`.",
        cause="the engine's program could not be run",
        remedy="check ENGINE_PYTHON; `make setup` installs the engine's environment",
    ),
    KnownFailure(
        code="head-restarts",
        seen="On a worker: `the head starts the engine again`.",
        cause="the head has ended this start of the engine",
        remedy="the head's log says why; this node takes part in the next start by itself",
        retryable=True,
    ),
    KnownFailure(
        code="unknown",
        seen="`… and no known cause matches; its own last error: …`.",
        cause="no known cause matches",
        remedy="read the engine's last lines in the log; `vllm-engine serve "
        "--dry-run` prints the command to try by hand",
        retryable=True,
    ),
)
"""What this program finds itself, and what is not known: nothing to match."""

GROUPS: dict[str, tuple[KnownFailure, ...]] = {
    "Memory": MEMORY,
    "GPU": GPU,
    "Several nodes": NODES,
    "Hub and cache": HUB,
    "Model": MODEL,
    "Host and flags": HOST,
    "This program": OWN,
}
"""The catalogue as the documentation shows it."""

CATALOGUE: tuple[KnownFailure, ...] = tuple(entry for group in GROUPS.values() for entry in group)
BY_CODE: dict[str, KnownFailure] = {entry.code: entry for entry in CATALOGUE}
