"""Entries without a signature: what this program finds itself, and what nobody knows."""

from __future__ import annotations

from vllm_engine.diagnosis.signature import Signature, always

OWN = (
    Signature(
        code="bad-settings",
        seen="The program ends with status 2 before it starts anything, or soon after it has seen the model.",
        cause="a setting cannot be used",
        advise=always("each line names the setting, its value and what was wanted"),
    ),
    Signature(
        code="model-unusable",
        seen='`MODEL_ID="…": …` before the engine starts.',
        cause="the model could not be found, fetched or prepared",
        advise=always("the line says why; see also the entries on the hub"),
    ),
    Signature(
        code="cannot-start",
        seen="`the engine cannot be started: …`.",
        cause="the engine's program could not be run",
        advise=always("check ENGINE_PYTHON; `make setup` makes the engine's environment anew"),
    ),
    Signature(
        code="unknown",
        seen="`… and no known cause matches; its own last error: …`.",
        cause="no known cause matches",
        advise=always(
            "read the engine's last lines in the log: the last error is theirs; `vllm-engine serve "
            "--dry-run` prints the command to try by hand"
        ),
        retryable=True,
    ),
)
