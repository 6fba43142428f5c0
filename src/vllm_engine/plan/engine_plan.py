"""What `auto` and the defaults mean for this device and this model."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_engine.models.model_source import Model

BOTH, PYTHON, RUST = "both", "python", "rust"
"""Which of vLLM's frontends run."""


@dataclass(frozen=True)
class Choice:
    """A value and its source: environment, .env, default, or why it was derived."""

    value: str
    source: str


@dataclass(frozen=True)
class EnginePlan:
    """The resolved values that the command is built from.

    Attributes:
        kv_cache_bytes: size of the KV cache, on CPU only: there vLLM's own default would
            reserve `GPU_MEMORY_UTILIZATION` of the machine's RAM.
        enforce_eager: run without torch.compile; None leaves it to vLLM.
        tool_call_parser: a name of vLLM's, `none`, or `auto` where its frontend chooses.
        reasoning_parser: likewise.
        frontend: both, python or rust.
        auto_tool_choice: let models call tools by themselves; None leaves it to the user's flags.
    """

    model: Model
    dtype: Choice
    tensor_parallel: Choice
    max_model_len: Choice
    api_server_count: Choice
    kv_cache_bytes: Choice | None
    enforce_eager: Choice | None
    tool_call_parser: Choice = Choice("none", "default")
    reasoning_parser: Choice = Choice("none", "default")
    auto_tool_choice: Choice | None = None
    frontend: Choice = Choice(PYTHON, "default")

    @property
    def choices(self) -> dict[str, Choice]:
        """The resolved values by the name of their variable."""
        named = {
            "DTYPE": self.dtype,
            "TENSOR_PARALLEL": self.tensor_parallel,
            "MAX_MODEL_LEN": self.max_model_len,
            "ENGINE_FRONTEND": self.frontend,
            "API_SERVER_COUNT": self.api_server_count,
            "KV_CACHE_MEMORY_BYTES": self.kv_cache_bytes,
            "ENFORCE_EAGER": self.enforce_eager,
            "TOOL_CALL_PARSER": self.tool_call_parser,
            "ENABLE_AUTO_TOOL_CHOICE": self.auto_tool_choice,
            "REASONING_PARSER": self.reasoning_parser,
        }
        return {key: choice for key, choice in named.items() if choice is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """A message about every value that was derived, for the log."""
        plain = ("default", "environment", ".env", "command line", "VLLM_EXTRA_ARGS")
        return tuple(
            f"{key}={choice.value}: {choice.source}"
            for key, choice in self.choices.items()
            if choice.source not in plain
        )
