"""The ranks that vLLM splits the model over: how many there are, and how many of them are on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_engine.config.settings import Settings


@dataclass(frozen=True)
class Ranks:
    """A rank is one process of vLLM's with one GPU, or with cores of its own on CPU."""

    tensor: int
    pipeline: int = 1
    data: int = 1
    nodes: int = 1

    @classmethod
    def of(cls, settings: Settings, tensor: int | None = None) -> Ranks:
        """Return those of the settings; `tensor` is what `TENSOR_PARALLEL=auto` stands for, else 1."""
        asked = settings.tensor_parallel
        split = tensor or (1 if asked == "auto" else asked)
        return cls(split, settings.pipeline_parallel, settings.data_parallel, settings.nodes)

    @property
    def replica(self) -> int:
        """How many ranks hold one copy of the model."""
        return self.tensor * self.pipeline

    @property
    def world(self) -> int:
        """All of them."""
        return self.replica * self.data

    @property
    def here(self) -> int:
        """How many are on each node."""
        return max(1, self.world // self.nodes)

    @property
    def is_even(self) -> bool:
        """Whether nodes have as many ranks, and copies share no node that they do not fill.

        That is vLLM's rule (0.32, `EngineArgs.create_engine_config` and `ParallelConfig.nnodes_within_dp`).
        """
        if self.world % self.nodes:
            return False
        return self.here % self.replica == 0 or self.replica % self.here == 0

    @property
    def words(self) -> str:
        """How the settings make them."""
        factors = {
            "TENSOR_PARALLEL": self.tensor,
            "PIPELINE_PARALLEL": self.pipeline,
            "DATA_PARALLEL": self.data,
        }
        given = [f"{key}={value}" for key, value in factors.items() if value > 1]
        return " x ".join(given) or "TENSOR_PARALLEL=1"
