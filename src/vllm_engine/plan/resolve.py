"""Resolves settings, machine and model into the plan, and that into the command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vllm_engine.errors import Problem, SettingsError
from vllm_engine.models.model_config import attention_heads, longest_context
from vllm_engine.models.model_source import Model, locate_model, require_config
from vllm_engine.plan.engine_command import (
    PYTHON_ENTRY,
    EngineCommand,
    build_command,
    engine_environment,
    is_switched_on,
)
from vllm_engine.plan.engine_plan import BOTH, Choice, EnginePlan
from vllm_engine.plan.engine_site import site_folder, write_metadata, write_shims
from vllm_engine.plan.frontends.api_servers import automatic, needs_one
from vllm_engine.plan.frontends.both_or_one import choose_frontend
from vllm_engine.plan.parallel.parallel_checks import most_ranks
from vllm_engine.plan.parallel.ranks import Ranks
from vllm_engine.plan.parser_choice import ParserChoice, wants_a_parser
from vllm_engine.plan.preflight import Preflight
from vllm_engine.sizing.batches import cpu_kv_bytes
from vllm_engine.sizing.kv_cache import kv_cache_of
from vllm_engine.system.device import free_memory_bytes

_CONFIG_ELSEWHERE = frozenset({"hf-config-path", "config-format"})
"""Flags with which vLLM reads the model's configuration from another place, or by another name."""
_LONG_ALLOWED = ("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "HF_OVERRIDES")


async def resolve_plan(preflight: Preflight) -> EnginePlan:
    """Locate the model and resolve every `auto` and default; fetches no weights.

    Raises:
        SettingsError: a setting does not fit the model.
        ModelError: the model cannot be found or prepared.
    """
    return Planner(preflight, await find_model(preflight)).plan()


async def find_model(preflight: Preflight) -> Model:
    """Locate the model.

    Raises:
        ModelError: the model cannot be found, or is a folder that holds none.
    """
    settings = preflight.settings
    model = await locate_model(settings, preflight.engine_python, preflight.download_dir)
    if settings.is_local_model and not preflight.mentioned_flags & _CONFIG_ELSEWHERE:
        require_config(settings.model_id)
    return model


def resolve_command(
    preflight: Preflight,
    plan: EnginePlan,
    socket: Path,
    *,
    is_offline: bool = False,
    python: Path | None = None,
    places: Mapping[str, str] | None = None,
) -> EngineCommand:
    """Return the engine's command for a plan, and write the files that it needs.

    `python` is another path of the engine's Python; `places` are variables that say where its files go.
    """
    settings, environ = preflight.settings, preflight.environment.merged
    installation = replace(preflight.installation, python=python or preflight.installation.python)
    _write_site(preflight)
    return build_command(
        settings,
        installation,
        plan,
        socket=socket,
        environ=environ | dict(places or {}) | _offline(is_offline),
        flags=preflight.flags,
    )


def foresee_command(
    preflight: Preflight, *, is_offline: bool, python: Path, places: Mapping[str, str]
) -> EngineCommand:
    """Return how the engine's command begins whatever the model is, and its environment."""
    installation = replace(preflight.installation, python=python)
    _write_site(preflight)
    environ = preflight.environment.merged | dict(places) | _offline(is_offline)
    return EngineCommand(
        (str(python), "-P", *PYTHON_ENTRY),
        engine_environment(preflight.settings, installation, environ),
    )


def _offline(is_offline: bool) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1"} if is_offline else {}


def _write_site(preflight: Preflight) -> None:
    folder, installation = site_folder(preflight.settings.cache_dir), preflight.installation
    if installation.distribution != "vllm":
        write_metadata(folder, installation.version)
    write_shims(folder, installation.needs_shims)


def start_key(preflight: Preflight, plan: EnginePlan) -> str:
    """Return a name for all starts of this configuration, under which their durations are kept."""
    parts = {
        "model": plan.model.location,
        "revision": plan.model.revision,
        "dtype": plan.dtype.value,
        "vllm": preflight.installation.version,
        "device": preflight.device.name,
        "tensor_parallel": plan.tensor_parallel.value,
        "ranks": Ranks.of(preflight.settings, int(plan.tensor_parallel.value)),
        "eager": plan.enforce_eager is not None or is_switched_on(preflight.flags, "enforce-eager"),
        "frontend": plan.frontend.value,
    }
    text = json.dumps({name: str(value) for name, value in parts.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Planner:
    """Resolves every `auto` and default for a model; without its configuration nothing is limited by it."""

    def __init__(self, preflight: Preflight, model: Model, free_memory: int | None = None) -> None:
        """Take what is known; `free_memory` is the main memory available in bytes, used on CPU only."""
        self._settings, self._device = preflight.settings, preflight.device
        self._environ, self._source = preflight.environment.merged, preflight.environment.source
        self._words, self._flags = preflight.flags, preflight.mentioned_flags
        self._parsers = ParserChoice(
            preflight.settings, preflight.installation, preflight.flags, model, preflight.environment.source
        )
        self._frontend = choose_frontend(preflight)
        self._model = model
        self._free_memory = free_memory_bytes() if free_memory is None else free_memory
        self._problems: list[Problem] = []

    def plan(self) -> EnginePlan:
        """Return the plan.

        Raises:
            SettingsError: a value does not fit the machine or the model, with the values that would.
        """
        length, parallel, tools = self._max_model_len(), self._tensor_parallel(), self._parsers.tools()
        self._problems += wants_a_parser(self._words, self._model, tools)
        if self._problems:
            raise SettingsError(self._problems)
        return EnginePlan(
            model=self._model,
            dtype=self._dtype(),
            tensor_parallel=parallel,
            max_model_len=length,
            frontend=self._frontend,
            api_server_count=self._api_server_count(),
            kv_cache_bytes=self._kv_cache_bytes(length),
            enforce_eager=self._enforce_eager(),
            tool_call_parser=tools,
            reasoning_parser=self._parsers.reasoning(),
            auto_tool_choice=self._parsers.auto_tool_choice(tools),
        )

    def _given(self, key: str, value: object) -> Choice:
        return Choice(str(value), self._source(key) or "default")

    def _dtype(self) -> Choice:
        if self._settings.dtype == "model":
            return Choice("auto", "vLLM's own, as the model was published")
        if self._settings.dtype != "auto":
            return self._given("DTYPE", self._settings.dtype)
        if self._device.supports_bfloat16:
            return Choice("bfloat16", f"auto: {self._device.name} supports it")
        return Choice("float16", f"auto: {self._device.name} has no bfloat16")

    def _tensor_parallel(self) -> Choice:
        heads = attention_heads(self._model.config)
        settings, asked = self._settings, self._settings.tensor_parallel
        room = most_ranks(settings, self._device)
        if settings.distributed_executor == "ray" and asked != "auto":
            room = asked  # Ray alone knows how many there are
        devices = max(1, len(self._device.gpus)) if asked == "auto" else room or 1
        most = devices * settings.nodes // (settings.pipeline_parallel * settings.data_parallel)
        legal = [n for n in range(1, most + 1) if heads is None or heads % n == 0]
        legal = [n for n in legal if Ranks.of(settings, n).is_even]
        valid = ", ".join(map(str, legal))
        if asked == "auto" and legal:
            there = (
                f"{devices} device(s){f' on each of {settings.nodes} nodes' if settings.nodes > 1 else ''}"
            )
            return Choice(str(legal[-1]), f"auto: {there}, {heads or 'unknown'} attention heads")
        if asked not in legal:
            wanted = f"must divide the model's {heads} attention heads"
            valid = f"valid values: {valid} or auto" if legal else "no number of ranks here does"
            self._problems.append(Problem("TENSOR_PARALLEL", str(asked), f"{wanted}; {valid}"))
        return self._given("TENSOR_PARALLEL", asked)

    def _max_model_len(self) -> Choice:
        asked = self._settings.max_model_len
        most = longest_context(self._model.config)
        given = self._given("MAX_MODEL_LEN", asked)
        if asked == "auto" or most is None or asked <= most:
            return given
        if given.source == "default":
            return Choice(str(most), f"the model's maximum, less than the default of {asked}")
        if not any(self._environ.get(key) for key in _LONG_ALLOWED):
            wanted = f"the model holds at most {most} tokens; set MAX_MODEL_LEN={most} or less, or auto"
            self._problems.append(Problem("MAX_MODEL_LEN", str(asked), wanted))
        return given

    def _api_server_count(self) -> Choice:
        asked = self._settings.api_server_count
        if asked != "auto":
            return self._given("API_SERVER_COUNT", asked)
        if self._settings.engine_frontend == "rust":
            return Choice("1", "auto: the Rust frontend is one process with many threads")
        if self._frontend.value == BOTH:
            return Choice("1", "auto: one beside the Rust frontend")
        if self._device.kind == "cpu":
            return Choice("1", "auto: on CPU the cores belong to the model")
        if alone := needs_one(self._words, self._environ):
            return Choice("1", f"auto: {alone} works with one only")
        count = automatic(self._device)
        return Choice(str(count), f"auto: {self._device.cores} cores, {len(self._device.gpus)} GPU(s)")

    def _kv_cache_bytes(self, length: Choice) -> Choice | None:
        chosen_by_user = (
            "kv-cache-memory-bytes" in self._flags
            or self._environ.get("VLLM_CPU_KVCACHE_SPACE")
            or self._source("GPU_MEMORY_UTILIZATION")
        )
        if self._device.kind != "cpu" or chosen_by_user:
            return None
        tokens = int(length.value) if length.value.isdigit() else 0
        # Each rank has a part of every sequence's, and those of one node share its memory.
        ranks = Ranks.of(self._settings)
        cache = kv_cache_of(self._model.config, tensor_parallel=ranks.tensor)
        return Choice(
            str(cpu_kv_bytes(cache, tokens, self._free_memory // ranks.here)),
            "on CPU: room for several prompts, a quarter of RAM at most",
        )

    def _enforce_eager(self) -> Choice | None:
        if self._device.kind != "cpu" or "enforce-eager" in self._flags:
            return None
        return Choice("1", "on CPU: starts sooner; ENFORCE_EAGER=0 compiles for more tokens/s")
