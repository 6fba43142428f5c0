"""What `auto` and the defaults mean for this device and this model. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vllm_engine.config.settings import Settings
from vllm_engine.errors import Problem, SettingsError
from vllm_engine.models.model_config import attention_heads, kv_cache_bytes, longest_context
from vllm_engine.models.model_source import Model
from vllm_engine.system.device import Device

MAX_AUTO_API_SERVERS = 4
CORES_PER_API_SERVER = 8
"""vLLM's Python API server is one busy process at some 11,000 tokens/s; more of them need cores."""

_GIB = 1 << 30
_CPU_KV_SEQUENCES = 8
_LONG_ALLOWED = ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "HF_OVERRIDES")


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
    """

    model: Model
    dtype: Choice
    tensor_parallel: Choice
    max_model_len: Choice
    api_server_count: Choice
    kv_cache_bytes: Choice | None
    enforce_eager: Choice | None

    @property
    def choices(self) -> dict[str, Choice]:
        """The resolved values by the name of their variable."""
        named = {
            "DTYPE": self.dtype,
            "TENSOR_PARALLEL": self.tensor_parallel,
            "MAX_MODEL_LEN": self.max_model_len,
            "API_SERVER_COUNT": self.api_server_count,
            "KV_CACHE_MEMORY_BYTES": self.kv_cache_bytes,
            "ENFORCE_EAGER": self.enforce_eager,
        }
        return {key: choice for key, choice in named.items() if choice is not None}

    @property
    def notes(self) -> tuple[str, ...]:
        """A message about every value that was derived, for the log."""
        plain = ("default", "environment", ".env")
        return tuple(
            f"{key}={choice.value}: {choice.source}"
            for key, choice in self.choices.items()
            if choice.source not in plain
        )


def check_device(settings: Settings, device: Device) -> list[Problem]:
    """List the settings that this device cannot fulfil."""
    problems = []
    wanted_gpus = settings.tensor_parallel
    if isinstance(wanted_gpus, int) and wanted_gpus > max(1, len(device.gpus)):
        legal = ", ".join(str(n) for n in range(1, max(1, len(device.gpus)) + 1))
        there = f"{len(device.gpus)} GPU(s) visible" if device.gpus else "no GPU is used here"
        problems.append(
            Problem("TENSOR_PARALLEL", str(wanted_gpus), f"{there}; valid values: {legal} or auto")
        )
    if settings.dtype == "bfloat16" and device.gpus and not device.supports_bfloat16:
        problems.append(
            Problem("DTYPE", "bfloat16", f"{device.name} has no bfloat16; set DTYPE=float16 or auto")
        )
    return problems


@dataclass
class Planner:
    """Resolves every `auto` and default.

    Attributes:
        settings: what the user asked for.
        source: returns where a variable was set, None if it was not.
        environ: the merged environment.
        free_memory_bytes: main memory that is available; used on CPU only.
        flags: names of the vLLM flags the user gave (`enforce-eager`), which replace ours.
    """

    settings: Settings
    source: Callable[[str], str | None]
    environ: Mapping[str, str]
    device: Device
    model: Model
    free_memory_bytes: int
    flags: frozenset[str]
    _problems: list[Problem] = field(default_factory=list)

    def plan(self) -> EnginePlan:
        """Return the plan.

        Raises:
            SettingsError: a value does not fit the model, with the values that would.
        """
        length, parallel = self._max_model_len(), self._tensor_parallel()
        if self._problems:
            raise SettingsError(self._problems)
        return EnginePlan(
            model=self.model,
            dtype=self._dtype(),
            tensor_parallel=parallel,
            max_model_len=length,
            api_server_count=self._api_server_count(),
            kv_cache_bytes=self._kv_cache_bytes(length),
            enforce_eager=self._enforce_eager(),
        )

    def _given(self, key: str, value: object) -> Choice:
        return Choice(str(value), self.source(key) or "default")

    def _dtype(self) -> Choice:
        if self.settings.dtype != "auto":
            return self._given("DTYPE", self.settings.dtype)
        if self.device.supports_bfloat16:
            return Choice("bfloat16", f"auto: {self.device.name} supports it")
        return Choice("float16", f"auto: {self.device.name} has no bfloat16")

    def _tensor_parallel(self) -> Choice:
        heads = attention_heads(self.model.config)
        most = max(1, len(self.device.gpus))
        legal = [n for n in range(1, most + 1) if heads is None or heads % n == 0]
        asked = self.settings.tensor_parallel
        if asked == "auto":
            return Choice(str(legal[-1]), f"auto: {most} device(s), {heads or 'unknown'} attention heads")
        if asked not in legal:
            valid = ", ".join(map(str, legal))
            wanted = f"must divide the model's {heads} attention heads; valid values: {valid} or auto"
            self._problems.append(Problem("TENSOR_PARALLEL", str(asked), wanted))
        return self._given("TENSOR_PARALLEL", asked)

    def _max_model_len(self) -> Choice:
        asked = self.settings.max_model_len
        most = longest_context(self.model.config)
        given = self._given("MAX_MODEL_LEN", asked)
        if asked == "auto" or most is None or asked <= most:
            return given
        if given.source == "default":
            return Choice(str(most), f"the model's maximum, less than the default of {asked}")
        if not any(self.environ.get(key) for key in _LONG_ALLOWED):
            wanted = f"the model holds at most {most} tokens; set MAX_MODEL_LEN={most} or less, or auto"
            self._problems.append(Problem("MAX_MODEL_LEN", str(asked), wanted))
        return given

    def _api_server_count(self) -> Choice:
        asked = self.settings.api_server_count
        if asked != "auto":
            return self._given("API_SERVER_COUNT", asked)
        if self.settings.engine_frontend == "rust":
            return Choice("1", "auto: the Rust frontend is one process with many threads")
        if self.device.kind == "cpu":
            return Choice("1", "auto: on CPU the cores belong to the model")
        spare = (self.device.cores - 2 * len(self.device.gpus)) // CORES_PER_API_SERVER
        count = min(MAX_AUTO_API_SERVERS, max(1, spare))
        return Choice(str(count), f"auto: {self.device.cores} cores, {len(self.device.gpus)} GPU(s)")

    def _kv_cache_bytes(self, length: Choice) -> Choice | None:
        chosen_by_user = (
            "kv-cache-memory-bytes" in self.flags
            or self.environ.get("VLLM_CPU_KVCACHE_SPACE")
            or self.source("GPU_MEMORY_UTILIZATION")
        )
        if self.device.kind != "cpu" or chosen_by_user:
            return None
        tokens = int(length.value) if length.value.isdigit() else 0
        longest = kv_cache_bytes(self.model.config, tokens) or 0
        ideal = max(_GIB, _CPU_KV_SEQUENCES * longest)
        return Choice(
            str(min(ideal, self.free_memory_bytes // 4)),
            "on CPU: room for several prompts, a quarter of RAM at most",
        )

    def _enforce_eager(self) -> Choice | None:
        if self.device.kind != "cpu" or "enforce-eager" in self.flags:
            return None
        return Choice("1", "on CPU: starts sooner; ENFORCE_EAGER=0 compiles for more tokens/s")
