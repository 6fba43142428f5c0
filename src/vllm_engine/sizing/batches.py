"""Pure: how much vLLM runs in one step where nobody says, which bounds what runs at once.

The rules are vLLM's `EngineArgs.get_batch_defaults` and `VllmConfig.max_concurrent_batches`, read in 0.32.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_engine.sizing.kv_cache import KvCache
from vllm_engine.system.sizes import GIB

_CPU_KV_SEQUENCES = 8


@dataclass(frozen=True)
class BatchLimits:
    """Values of `--max-num-batched-tokens` and `--max-num-seqs`.

    `is_async`: whether one step is scheduled while another runs, which vLLM does on GPUs.
    """

    tokens: int
    requests: int
    is_async: bool = True

    def in_flight_tokens(self, pipeline_parallel: int = 1) -> int:
        """Return the tokens that may be scheduled and not settled: what each sliding window reserves."""
        return self.tokens * (pipeline_parallel + self.is_async)


def batch_limits(memory_bytes: float, name: str = "", *, is_cpu: bool = False) -> BatchLimits:
    """Return vLLM's defaults for a GPU of this memory and name, or for a CPU."""
    if is_cpu:
        return BatchLimits(2048, 128, is_async=False)
    if memory_bytes >= 160 * GIB:
        return BatchLimits(16_384, 1024)
    if memory_bytes >= 70 * GIB and "a100" not in name.lower():
        return BatchLimits(8192, 1024)
    return BatchLimits(2048, 256)


def cpu_kv_bytes(cache: KvCache | None, max_model_len: int, free_bytes: float) -> int:
    """Return the size that the KV cache gets on CPU where nobody sets it.

    There is room for several requests of full length, and it takes a quarter of the free memory at most:
    vLLM's own default would leave the model none.
    """
    longest = cache.request_bytes(max_model_len) if cache else 0
    return int(min(max(GIB, _CPU_KV_SEQUENCES * longest), free_bytes // 4))
