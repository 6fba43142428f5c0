"""Pure: what one replica of a model needs and holds on given hardware, and how many replicas a load needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vllm_engine.errors import OptionProblem, Problem, SettingsError
from vllm_engine.models.model_config import attention_heads, first_number, longest_context, text_config
from vllm_engine.sizing.batches import BatchLimits, batch_limits, cpu_kv_bytes
from vllm_engine.sizing.gpus import Hardware
from vllm_engine.sizing.kv_cache import KV_DTYPES, KvCache, kv_heads, kv_value_bytes, loaded_bytes
from vllm_engine.sizing.room import Room

_BFLOAT16 = (8, 0)
_ROUND_TOKENS = 256


@dataclass(frozen=True)
class SizedModel:
    """A model as far as its size goes: `stored_bytes` are its weights as they lie on the disk."""

    name: str
    config: Mapping[str, Any]
    stored_bytes: int


@dataclass(frozen=True)
class Load:
    """What users ask for.

    Attributes:
        context: tokens of the longest request, prompt and answer together.
        users: requests that run at the same time; None where nobody says.
        prompt: tokens of a usual prompt.
        output: tokens of a usual answer.
    """

    context: int
    users: int | None = None
    prompt: int | None = None
    output: int | None = None

    @property
    def usual(self) -> int | None:
        """Tokens of a usual request at its end; None where nobody says."""
        if self.prompt is None and self.output is None:
            return None
        return (self.prompt or 0) + (self.output or 0)


@dataclass(frozen=True)
class Options:
    """How the engine is to run; None and `auto` are chosen here."""

    dtype: str = "auto"
    kv_cache_dtype: str | None = None
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int | None = None
    max_num_seqs: int | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    data_parallel: int = 1


@dataclass(frozen=True)
class Replica:
    """One replica: its parts and what they take.

    Attributes:
        room: the memory of each device.
        dtype: what `auto` becomes on this hardware.
        limits: how much vLLM runs in one step.
    """

    model: SizedModel
    hardware: Hardware
    load: Load
    options: Options
    room: Room
    dtype: str
    limits: BatchLimits
    cache: KvCache | None = field(default=None)

    @property
    def data_parallel(self) -> int:
        """How many copies of the model this replica has."""
        return self.options.data_parallel

    @property
    def fits(self) -> bool:
        """Whether the weights fit, and beside them one request of the whole context where that is known."""
        longest = self.longest
        return self.room.left_bytes > 0 and (longest is None or longest >= self.load.context)

    @property
    def longest(self) -> int | None:
        """The longest request that fits and that the model holds; None where neither is known."""
        fitting = self.cache.longest(max(0.0, self.room.space_bytes)) if self.cache else None
        known = [most for most in (fitting, longest_context(self.model.config)) if most is not None]
        return min(known) if known else None

    @property
    def context_to_set(self) -> int | None:
        """A `MAX_MODEL_LEN` that fits: what is asked for, or the largest round one; None if none does."""
        if self.room.left_bytes <= 0:
            return None
        if self.fits or self.longest is None:
            return self.load.context
        return self.longest // _ROUND_TOKENS * _ROUND_TOKENS or self.longest or None

    def concurrency(self, tokens: int) -> float | None:
        """Return how many requests of `tokens` the caches hold at once: vLLM's "maximum concurrency"."""
        held = self.cache.requests(self.room.space_bytes, tokens) if self.cache else None
        return None if held is None else held * self.data_parallel

    def at_once(self, tokens: int) -> int | None:
        """Return how many requests of `tokens` run at once: what the caches hold, up to `MAX_NUM_SEQS`."""
        held = self.concurrency(tokens)
        return None if held is None else min(int(held), self.limits.requests * self.data_parallel)

    def replicas(self, tokens: int) -> int | None:
        """Return how many replicas run the users' requests of `tokens` at once."""
        at_once = self.at_once(tokens)
        return math.ceil(self.load.users / at_once) if self.load.users and at_once else None


def size_replica(model: SizedModel, hardware: Hardware, load: Load, options: Options) -> Replica:
    """Compute what one replica takes.

    Raises:
        SettingsError: the model cannot be split so, or does not hold so long a context.
    """
    longest = longest_context(model.config)
    if longest is not None and load.context > longest:
        problem = f"the model holds at most {longest} tokens; give {longest} or less"
        raise SettingsError([OptionProblem(f"--context {load.context}", str(load.context), problem)])
    if load.usual is not None and load.usual > load.context:
        problem = f"longer than --context {load.context}; give a longer context"
        raise SettingsError([OptionProblem("--prompt and --output", str(load.usual), problem)])
    if options.kv_cache_dtype not in (None, *KV_DTYPES):
        problem = f"its size is not known here; expected one of {', '.join(KV_DTYPES)}"
        raise SettingsError([OptionProblem(f"--kv-cache-dtype {options.kv_cache_dtype}", None, problem)])
    tensor, pipeline = _split(model.config, hardware, options)
    gpu = hardware.gpu
    has_bfloat16 = gpu.capability is None or gpu.capability >= _BFLOAT16
    dtype = options.dtype if options.dtype != "auto" else "bfloat16" if has_bfloat16 else "float16"
    limits = batch_limits(gpu.memory_bytes, gpu.name, is_cpu=hardware.is_cpu)
    limits = replace(limits, requests=options.max_num_seqs or limits.requests)
    share = 1.0 if hardware.is_cpu else options.gpu_memory_utilization
    weights = loaded_bytes(model.stored_bytes, model.config, dtype)
    room = Room(
        budget_bytes=gpu.memory_bytes * share,
        weight_bytes=weights,
        config=model.config,
        max_model_len=load.context,
        kv_value_bytes=kv_value_bytes(options.kv_cache_dtype, dtype, model.config),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        most_devices=hardware.count,
        in_flight_tokens=limits.in_flight_tokens(pipeline),
    )
    cache = room.cache
    if options.kv_cache_memory_bytes is not None:
        # As the doctor has it: GPU_MEMORY_UTILIZATION does not bound a cache whose size is given.
        room = replace(room, budget_bytes=gpu.memory_bytes, kv_bytes=options.kv_cache_memory_bytes)
    elif hardware.is_cpu:
        room = replace(room, kv_bytes=cpu_kv_bytes(cache, load.context, gpu.memory_bytes))
    return Replica(model, hardware, load, options, room, dtype, limits, cache)


def _split(config: Mapping[str, Any], hardware: Hardware, options: Options) -> tuple[int, int]:
    """Return over how many GPUs heads and layers are split."""
    if hardware.count % options.data_parallel:
        raise _cannot(options, hardware, f"--data-parallel must divide the {hardware.count} GPU(s)")
    count = hardware.count // options.data_parallel
    tensor, pipeline = options.tensor_parallel, options.pipeline_parallel
    legal = [n for n in range(1, count + 1) if count % n == 0 and divides(config, n)]
    if tensor is None:
        tensor = count // pipeline if pipeline and count % pipeline == 0 else legal[-1]
    if pipeline is None:
        pipeline = max(1, count // tensor)
    if tensor * pipeline != count:
        raise _cannot(options, hardware, f"the parts must make {hardware.count} GPU(s) in all")
    if not divides(config, tensor):
        heads = attention_heads(config)
        raise _cannot(
            options,
            hardware,
            f"{tensor} does not divide the model's {heads} attention heads and {kv_heads(config)} KV heads; "
            f"--tensor-parallel may be {', '.join(map(str, legal))}",
        )
    layers = first_number(text_config(config), ("num_hidden_layers", "n_layer"))
    if layers is not None and pipeline > layers:
        raise _cannot(options, hardware, f"the model has {layers} layers to split")
    return tensor, pipeline


def divides(config: Mapping[str, Any], count: int) -> bool:
    """Say whether heads and KV heads can be split over so many GPUs, as far as that is known."""
    heads, keys = attention_heads(config), kv_heads(config)
    return (heads is None or heads % count == 0) and (keys is None or keys % count == 0 or count % keys == 0)


def _cannot(options: Options, hardware: Hardware, why: str) -> SettingsError:
    given = (options.tensor_parallel, options.pipeline_parallel, options.data_parallel)
    names = ("--tensor-parallel", "--pipeline-parallel", "--data-parallel")
    shown = [f"{name} {value}" for name, value in zip(names, given, strict=True) if value not in (None, 1)]
    what = " ".join([*shown, f"on {hardware.in_words}"])
    problems: list[Problem] = [OptionProblem(what, what, why)]
    return SettingsError(problems)
