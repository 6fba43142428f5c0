"""Pure: what a line of the engine's log says about how far its start has come."""

from __future__ import annotations

import re

from vllm_engine.engine.engine_state import Phase

_SHARDS = re.compile(r"checkpoint shards:\s+(?P<percent>\d+)%")
_GRAPHS = re.compile(r"Capturing CUDA graphs \((?P<kinds>[^)]*)\):\s+(?P<percent>\d+)%")
SIGNS: tuple[tuple[re.Pattern[str], Phase], ...] = tuple(
    (re.compile(pattern), phase)
    for pattern, phase in (
        (r"Starting to load model|Loading model from scratch|checkpoint shards:", Phase.LOADING_WEIGHTS),
        (r"Loading weights took|Time spent downloading weights", Phase.LOADING_WEIGHTS),
        (r"torch\.compile took|Dynamo bytecode transform|Using cache directory:", Phase.COMPILING),
        (r"Compiling a graph|Cache the graph|Directly load|Warming up model for", Phase.COMPILING),
        (r"Available KV cache memory|for KV cache on node|KV cache size:", Phase.PROFILING_MEMORY),
        (r"Capturing CUDA graph", Phase.CAPTURING_GRAPHS),
        # Kernels that are compiled after it take as long as 20 s in a cold start.
        (
            r"Graph capturing finished|init engine \(profile|[Ss]tarting (?:vLLM|OpenAI) server",
            Phase.WARMING_UP,
        ),
    )
)
"""Lines of vLLM 0.26 to 0.33, both frontends, on CUDA and CPU, and the phase that each proves."""


def progress_in(reached: Phase, line: str) -> tuple[Phase, float | None] | None:
    """Return the phase, and the fraction of it that is done, if `line` proves more than has been `reached`.

    A start only goes forward: a late line of an earlier phase, such as a slow worker's, is ignored.
    """
    phase = next((phase for pattern, phase in SIGNS if pattern.search(line)), None)
    if phase is None:
        return None
    fraction = _fraction(line)
    ahead = phase.rank - reached.rank
    return (phase, fraction) if ahead > 0 or (ahead == 0 and fraction is not None) else None


def _fraction(line: str) -> float | None:
    if shards := _SHARDS.search(line):
        return int(shards["percent"]) / 100
    if graphs := _GRAPHS.search(line):
        # vLLM captures the piecewise graphs first, then the full ones.
        return int(graphs["percent"]) / 200 + (0.5 if "FULL" in graphs["kinds"] else 0.0)
    return None
