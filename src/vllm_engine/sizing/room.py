"""Pure: the memory that an engine has on each device, and how much of it is left for the KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm_engine.sizing.kv_cache import KvCache, kv_cache_of
from vllm_engine.system.sizes import GIB

WORKING_BYTES = 3 * GIB // 2
"""Memory beside weights and KV cache: CUDA context, activations, graphs. An estimate for small batches."""


@dataclass(frozen=True)
class Room:
    """The memory that the engine may use on each device, and what has to fit there.

    Attributes:
        budget_bytes: of each GPU, or of main memory.
        weight_bytes: of the whole model once loaded; None if unknown.
        max_model_len: the longest request; None where vLLM chooses it.
        kv_value_bytes: of one number in the KV cache.
        kv_bytes: of the KV cache of each device if its size is set; None for whatever is left.
        tensor_parallel: how many devices share the heads.
        pipeline_parallel: how many share the layers.
        most_devices: how many the model could be split over.
        in_flight_tokens: see `KvCache`.
    """

    budget_bytes: float
    weight_bytes: int | None
    config: Mapping[str, Any]
    max_model_len: int | None
    kv_value_bytes: int = 2
    kv_bytes: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    most_devices: int = 1
    in_flight_tokens: int = 1

    @property
    def devices(self) -> int:
        """How many devices hold one copy of the model."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def share_bytes(self) -> float:
        """What each device holds of the weights; 0 where their size is unknown."""
        return (self.weight_bytes or 0) / self.devices

    @property
    def left_bytes(self) -> float:
        """What weights and working memory leave on each device; negative where they do not fit."""
        return self.budget_bytes - self.share_bytes - WORKING_BYTES

    @property
    def space_bytes(self) -> float:
        """What the KV cache gets on each device."""
        return self.left_bytes if self.kv_bytes is None else min(self.left_bytes, self.kv_bytes)

    @property
    def cache(self) -> KvCache | None:
        """What the KV cache takes on each device; None where only vLLM knows."""
        return kv_cache_of(
            self.config,
            self.kv_value_bytes,
            tensor_parallel=self.tensor_parallel,
            pipeline_parallel=self.pipeline_parallel,
            in_flight_tokens=self.in_flight_tokens,
        )
