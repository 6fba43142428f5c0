"""Known failures: not enough memory on the GPU, for the KV cache, or on the host.

Texts of vLLM 0.26 to 0.33 (`v1/core/kv_cache_utils.py`, `v1/worker/{utils,gpu_worker,cpu_worker}.py`) and of
torch's allocators.
"""

from __future__ import annotations

import math
import signal

from vllm_engine.diagnosis.known_failure import Advice, Groups, KnownFailure, Stage, setting
from vllm_engine.diagnosis.run_facts import GIB, Facts, gib

_CUDA_OOM = (
    r"(?:torch\.(?:cuda\.)?)?OutOfMemoryError\W.*?(?:CUDA|HIP) out of memory\."
    r"(?: Tried to allocate (?P<tried>[\d.]+ [KMG]iB))?"
    r"(?:.*? has a total capacity of (?P<total>[\d.]+ GiB) of which "
    r"(?P<free>[\d.]+ (?:[KMG]iB|bytes)) is free)?"
)
_OUT_OF_MEMORY = (_CUDA_OOM, r"CUDA error: out of memory|Cuda failure \W?out of memory")
_PROFILING = r"in (?:profile_run|determine_available_memory|determine_num_available_blocks|profile_cudagraph)"
_SAMPLING = r"in _dummy_(?:sampler|pooler)_run|out of memory occurred when warming up"
_WARMING_UP = (
    rf"{_SAMPLING}|in (?:capture_model|_capture_cudagraphs|initialize_kv_cache"
    r"|_allocate_kv_cache_tensors|initialize_from_config|compile_or_warm_up_model)\b"
)
STEP = 0.05
"""By how much `GPU_MEMORY_UTILIZATION` is lowered at a time: 1 GiB on a card of 20."""


def _lower(facts: Facts) -> float:
    return max(0.1, round(facts.gpu_memory_utilization - STEP, 2))


def _split(facts: Facts) -> str:
    more = facts.next_tensor_parallel
    return f", or set TENSOR_PARALLEL={more} to split it over more GPUs" if more else ""


def _loading(_groups: Groups, facts: Facts) -> Advice:
    size = f" (this GPU has {gib(facts.gpu_memory_bytes)})" if facts.gpu_memory_bytes else ""
    more = facts.next_tensor_parallel
    return Advice(
        f"serve a smaller or quantised model{size}{_split(facts)}; end other programs that use the GPU",
        {"TENSOR_PARALLEL": str(more)} if more else {},
    )


def _profiling(_groups: Groups, facts: Facts) -> Advice:
    half = max(512, (facts.max_model_len or 8192) // 4)
    return setting("MAX_NUM_BATCHED_TOKENS", half, f", which shrinks the largest batch{_split(facts)}")


def _warming_up(groups: Groups, facts: Facts) -> Advice:
    lower = _lower(facts)
    changes = {"GPU_MEMORY_UTILIZATION": f"{lower:g}"}
    if "requests" in groups:
        changes["MAX_NUM_SEQS"] = str(max(1, int(groups["requests"]) // 2))
    fewer = changes.get("MAX_NUM_SEQS", "64")
    return Advice(
        f"set GPU_MEMORY_UTILIZATION={lower:g} or MAX_NUM_SEQS={fewer}; ENFORCE_EAGER=1 needs no graphs",
        changes,
    )


def _serving(_groups: Groups, facts: Facts) -> Advice:
    rest = (
        ", which leaves more memory beside the KV cache; long prompts need less with a smaller "
        "MAX_NUM_BATCHED_TOKENS"
    )
    return setting("GPU_MEMORY_UTILIZATION", _lower(facts), rest)


def _kv_cache(groups: Groups, facts: Facts) -> Advice:
    fits = groups.get("fits")
    shorter = f"set MAX_MODEL_LEN={fits} or less" if fits else "set a smaller MAX_MODEL_LEN"
    changes = {"MAX_MODEL_LEN": fits} if fits else {}
    missing = float(groups["needed"]) - float(groups["available"]) if "available" in groups else 0.0
    if facts.device == "cpu":
        # vLLM rounds what it says to 0.01 GiB.
        more = math.ceil((float(groups.get("needed", 1)) + 0.01) * GIB / (1 << 26)) << 26
        return Advice(f"{shorter}, or KV_CACHE_MEMORY_BYTES={more} if there is enough RAM", changes)
    return Advice(f"{shorter}{_more_utilization(facts, missing)}", changes)


def _more_utilization(facts: Facts, missing_gib: float) -> str:
    if not facts.gpu_memory_bytes:
        return ", or raise GPU_MEMORY_UTILIZATION"
    share = facts.gpu_memory_utilization + missing_gib * GIB / facts.gpu_memory_bytes
    wanted = math.ceil(share * 100) / 100
    return f", or GPU_MEMORY_UTILIZATION={wanted:g}" if wanted <= 0.97 else _split(facts)


def _no_kv_memory(_groups: Groups, facts: Facts) -> Advice:
    if facts.device == "cpu":
        return setting("KV_CACHE_MEMORY_BYTES", GIB, " or more")
    more = min(0.95, round(facts.gpu_memory_utilization + STEP, 2))
    if more > facts.gpu_memory_utilization:
        return setting("GPU_MEMORY_UTILIZATION", more, f", or serve a smaller model{_split(facts)}")
    return Advice(f"serve a smaller or quantised model{_split(facts)}")


def _share_that_is_free(groups: Groups, _facts: Facts) -> Advice:
    if "free" not in groups:
        return Advice("set GPU_MEMORY_UTILIZATION to the share that is free, or end what uses the memory")
    share = math.floor(float(groups["free"]) / float(groups["total"]) * 100) / 100
    if share < 0.1:
        return Advice("end the program that uses the memory, or choose another GPU with CUDA_VISIBLE_DEVICES")
    return setting("GPU_MEMORY_UTILIZATION", share, ", or end what uses the memory")


def _kv_that_is_free(groups: Groups, _facts: Facts) -> Advice:
    if "free" not in groups:
        return Advice("set a smaller KV_CACHE_MEMORY_BYTES, or end what uses the memory")
    half = int(float(groups["free"]) * GIB / 2) >> 20 << 20
    return setting("KV_CACHE_MEMORY_BYTES", half, ", or end what uses the memory")


def _host(_groups: Groups, facts: Facts) -> Advice:
    limit = f" (now {gib(facts.memory_limit_bytes)})" if facts.memory_limit_bytes else ""
    less = ", a smaller KV_CACHE_MEMORY_BYTES" if facts.device == "cpu" else ""
    return Advice(
        f"raise the container's memory limit{limit}: --memory in Docker, resources.limits.memory in "
        f"Kubernetes; or serve a smaller model{less}"
    )


MEMORY = (
    KnownFailure(
        code="host-memory-limit",
        seen="The engine is killed, or `Failed core proc(s): {'EngineCore': -9}`; the cgroup counts an "
        "oom_kill.",
        cause="the kernel killed the engine because the container's memory limit was reached",
        remedy=_host,
        ended=lambda end, facts: facts.oom_kills > 0 and end.status != -signal.SIGTERM,
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="cuda-out-of-memory-serving",
        seen="`torch.OutOfMemoryError: CUDA out of memory` while requests run.",
        cause="the GPU ran out of memory while requests were running ({tried} more were needed, {free} free)",
        remedy=_serving,
        patterns=_OUT_OF_MEMORY,
        stage=Stage.SERVING,
    ),
    KnownFailure(
        code="cuda-out-of-memory-profiling",
        seen="`torch.OutOfMemoryError: CUDA out of memory`, with `profile_run` in the traceback.",
        cause="the weights fit, but the largest batch does not: the GPU ran out of memory while vLLM "
        "profiled it ({tried} more were needed, {free} of {total} free)",
        remedy=_profiling,
        patterns=_OUT_OF_MEMORY,
        also=_PROFILING,
        unless=_SAMPLING,
    ),
    KnownFailure(
        code="cuda-out-of-memory-warming-up",
        seen="`CUDA out of memory occurred when warming up sampler with 256 dummy requests`.",
        cause="the GPU ran out of memory after the KV cache had been reserved, while the engine warmed up",
        remedy=_warming_up,
        patterns=(
            r"CUDA out of memory occurred when warming up \w+ with (?P<requests>\d+) dummy",
            *_OUT_OF_MEMORY,
        ),
        also=_WARMING_UP,
    ),
    KnownFailure(
        code="cuda-out-of-memory-loading",
        seen="`torch.OutOfMemoryError: CUDA out of memory`, with `load_model` in the traceback.",
        cause="the model's weights do not fit into the GPU's memory ({tried} more were needed, {free} of "
        "{total} free)",
        remedy=_loading,
        patterns=(*_OUT_OF_MEMORY, r"Failed to create unquantized linear weights: CUDA out of memory"),
        unless=rf"{_PROFILING}|{_WARMING_UP}",
    ),
    KnownFailure(
        code="kv-cache-too-small",
        seen="`To serve at least one request with the model's max seq len (8192), … KV cache is needed`.",
        cause="one request of MAX_MODEL_LEN={length} tokens needs {needed} GiB of KV cache, but only "
        "{available} GiB are available",
        remedy=_kv_cache,
        patterns=(
            r"max seq len \((?P<length>\d+)\), \(?(?P<needed>[\d.]+) GiB KV cache is needed, which is larger "
            r"than the available KV cache memory \((?P<available>[\d.]+) GiB\)\."
            r"(?:.*?estimated maximum model length is (?P<fits>\d+))?",
        ),
    ),
    KnownFailure(
        code="no-memory-for-kv-cache",
        seen="`No available memory for the cache blocks`.",
        cause="the weights and the largest batch leave no memory for the KV cache",
        remedy=_no_kv_memory,
        patterns=(r"No available memory for the cache blocks",),
    ),
    KnownFailure(
        code="gpu-memory-in-use",
        seen="`Free memory on device cuda:0 (31.44/47.38 GiB) on startup is less than desired GPU memory "
        "utilization`.",
        cause="GPU_MEMORY_UTILIZATION={share} needs {wanted} GiB, but only {free} of {total} GiB are free "
        "on the GPU: another program uses it",
        remedy=_share_that_is_free,
        patterns=(
            r"Free memory on device \S*\s?\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less than "
            r".*?\((?P<share>[\d.]+), (?P<wanted>[\d.]+) GiB\)",
        ),
        retryable=True,
    ),
    KnownFailure(
        code="ram-below-utilization",
        seen="`Available memory on node 0 (…) on startup is less than desired CPU memory utilization`.",
        cause="GPU_MEMORY_UTILIZATION={share} (on CPU: of RAM) needs {wanted} GiB, but only {free} of "
        "{total} GiB are available",
        remedy=_share_that_is_free,
        patterns=(
            r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less "
            r"than desired CPU memory utilization \((?P<share>[\d.]+), (?P<wanted>[\d.]+) GiB\)",
        ),
    ),
    KnownFailure(
        code="ram-below-kv-cache",
        seen="`Available memory on node 0 (…) on kv cache allocation is less than requested memory for kv`.",
        cause="the KV cache needs {wanted} GiB of RAM, but only {free} of {total} GiB are available",
        remedy=_kv_that_is_free,
        patterns=(
            r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on kv cache allocation "
            r"is less than requested memory for kv \((?P<wanted>[\d.]+)",
        ),
    ),
    KnownFailure(
        code="gpu-memory-changed",
        seen="`Error in memory profiling. Initial free memory …, current free memory …`.",
        cause="another program released GPU memory while vLLM measured it",
        remedy="start again, and let only one engine start at a time on a shared GPU",
        patterns=(r"Error in memory profiling\. Initial free memory",),
        retryable=True,
    ),
    KnownFailure(
        code="host-memory",
        seen="`DefaultCPUAllocator: can't allocate memory`, `Cannot allocate memory`, `MemoryError`.",
        cause="the machine has too little main memory for this model",
        remedy=_host,
        patterns=(
            r"DefaultCPUAllocator: can't allocate memory",
            r"\[Errno 12\]|Cannot allocate memory",
            r"^MemoryError\b|std::bad_alloc",
        ),
        unless=r"parse_safetensors_file_metadata",
        stage=Stage.ANY,
    ),
)
