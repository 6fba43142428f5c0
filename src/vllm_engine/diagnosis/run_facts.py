"""What is known of a run besides the engine's output: settings, device, limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vllm_engine.plan.given_flags import GivenFlag


@dataclass(frozen=True)
class Facts:
    """Everything that a remedy may be computed from; the defaults mean "not known".

    Attributes:
        model: `MODEL_ID`.
        given: vLLM's flags that the user has set, by whatever variable.
        max_model_len: tokens, as settled for this model; None where vLLM chooses.
        split_over: how many GPUs hold the parts of one copy of the model.
        attention_heads: the model's, which `TENSOR_PARALLEL` must divide.
        gpus: how many the engine may use.
        gpu_memory_bytes: memory of the smallest of them.
        weight_bytes: of the whole model once loaded.
        kv_cache_memory_bytes: on each device, where it is set; `GPU_MEMORY_UTILIZATION` has no effect then.
        max_num_seqs: where it is set, like the next.
        cache_free_bytes: free space where `CACHE_DIR` is.
        shm_bytes: size of /dev/shm.
        memory_limit_bytes: the container's memory limit.
        oom_kills: how often the kernel's OOM killer acted in our cgroup during this run.
    """

    model: str = ""
    given: tuple[GivenFlag, ...] = ()
    is_local: bool = False
    revision: str | None = None
    has_token: bool = False
    dtype: str = "auto"
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9
    tensor_parallel: int = 1
    split_over: int = 1
    nodes: int = 1
    node_rank: int = 0
    head_address: str | None = None
    attention_heads: int | None = None
    device: Literal["cuda", "cpu"] = "cuda"
    gpus: int = 0
    gpu_memory_bytes: int = 0
    weight_bytes: int | None = None
    kv_cache_memory_bytes: int | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    cache_dir: str = "/cache"
    cache_free_bytes: int | None = None
    shm_bytes: int | None = None
    memory_limit_bytes: int | None = None
    oom_kills: int = 0
    startup_timeout_seconds: float = 1800.0
    vllm_version: str = ""

    @property
    def legal_tensor_parallel(self) -> tuple[int, ...]:
        """The values of `TENSOR_PARALLEL` that fit this model and these GPUs."""
        heads = self.attention_heads
        return tuple(n for n in range(1, max(1, self.gpus) + 1) if heads is None or heads % n == 0)

    @property
    def next_tensor_parallel(self) -> int | None:
        """The next greater legal value, None where there is none."""
        return next((n for n in self.legal_tensor_parallel if n > self.tensor_parallel), None)
