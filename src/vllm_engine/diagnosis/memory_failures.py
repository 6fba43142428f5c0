"""Known failures: not enough memory on the GPU, for the KV cache, or on the host.

Texts of vLLM 0.26 to 0.33 (`v1/core/kv_cache_utils.py`, `v1/worker/{utils,gpu_worker,cpu_worker}.py`) and of
torch's allocators.
"""

from __future__ import annotations

import signal

from vllm_engine.diagnosis.known_failure import KnownFailure, Stage
from vllm_engine.diagnosis.memory_remedies import (
    kv_that_is_free,
    less_to_warm_up,
    more_host_memory,
    more_room,
    room_for_kv_cache,
    share_that_is_free,
    shorter_context,
    smaller_batch,
    smaller_kv_cache,
    smaller_model,
)

_CUDA_OOM = (
    r"(?:torch\.(?:cuda\.)?)?OutOfMemoryError\W.*?(?:CUDA|HIP) out of memory\."
    r"(?: Tried to allocate (?P<tried>[\d.]+ [KMG]iB))?"
    r"(?:.*? has a total capacity of (?P<total>[\d.]+ GiB) of which "
    r"(?P<free>[\d.]+ (?:[KMG]iB|bytes)) is free(?P<users>.*))?"
)
_OUT_OF_MEMORY = (_CUDA_OOM, r"CUDA error: out of memory|Cuda failure \W?out of memory")
_PROFILING = r"in (?:profile_run|determine_available_memory|determine_num_available_blocks|profile_cudagraph)"
_SAMPLING = r"in _dummy_(?:sampler|pooler)_run|out of memory occurred when warming up"
_ALLOCATING_KV_CACHE = r"in (?:initialize_kv_cache|init_kv_cache|_allocate_kv_cache)(?:_tensors)?\b"
_WARMING_UP = (
    rf"{_SAMPLING}|in (?:capture_model|_capture_cudagraphs|initialize_from_config|compile_or_warm_up_model)\b"
)
_KV_CACHE_HINTS = (
    r"Initial free memory (?P<initial>[\d.]+) GiB, reserved (?P<reserved>[\d.]+) GiB memory for KV Cache",
    r"Model loading took (?P<weights>[\d.]+) GiB",
)
"""vLLM logs the first where `--kv-cache-memory-bytes` is given."""

MEMORY = (
    KnownFailure(
        code="host-memory-limit",
        seen="The engine is killed, or `Failed core proc(s): {'EngineCore': -9}`; the cgroup counts an "
        "oom_kill.",
        cause="the kernel killed the engine because the container's memory limit was reached",
        remedy=more_host_memory,
        ended=lambda end, facts: facts.oom_kills > 0 and end.status != -signal.SIGTERM,
        stage=Stage.ANY,
    ),
    KnownFailure(
        code="cuda-out-of-memory-serving",
        seen="`torch.OutOfMemoryError: CUDA out of memory` while requests run.",
        cause="the GPU ran out of memory while requests were running ({tried} more were needed, {free} free)",
        remedy=more_room,
        patterns=_OUT_OF_MEMORY,
        hints=_KV_CACHE_HINTS,
        stage=Stage.SERVING,
    ),
    KnownFailure(
        code="cuda-out-of-memory-profiling",
        seen="`torch.OutOfMemoryError: CUDA out of memory`, with `profile_run` in the traceback.",
        cause="the weights fit, but the largest batch does not: the GPU ran out of memory while vLLM "
        "profiled it ({tried} more were needed, {free} of {total} free)",
        remedy=smaller_batch,
        patterns=_OUT_OF_MEMORY,
        also=_PROFILING,
        unless=_SAMPLING,
        hints=(r"max_num_batched_tokens=(?P<batched>\d+)\.",),
    ),
    KnownFailure(
        code="cuda-out-of-memory-kv-cache",
        seen="`torch.OutOfMemoryError: CUDA out of memory`, with `initialize_kv_cache` in the traceback.",
        cause="the KV cache does not fit into the GPU's memory beside the weights ({tried} more were needed, "
        "{free} of {total} free)",
        remedy=smaller_kv_cache,
        patterns=_OUT_OF_MEMORY,
        also=_ALLOCATING_KV_CACHE,
        hints=_KV_CACHE_HINTS,
    ),
    KnownFailure(
        code="cuda-out-of-memory-warming-up",
        seen="`CUDA out of memory occurred when warming up sampler with 256 dummy requests`.",
        cause="the GPU ran out of memory after the KV cache had been reserved, while the engine warmed up",
        remedy=less_to_warm_up,
        patterns=(
            r"CUDA out of memory occurred when warming up \w+ with (?P<requests>\d+) dummy",
            *_OUT_OF_MEMORY,
        ),
        also=_WARMING_UP,
        unless=_ALLOCATING_KV_CACHE,
        hints=_KV_CACHE_HINTS,
    ),
    KnownFailure(
        code="cuda-out-of-memory-loading",
        seen="`torch.OutOfMemoryError: CUDA out of memory`, with `load_model` in the traceback.",
        cause="the model's weights do not fit into the GPU's memory: the next part of them needs {tried}, "
        "but only {free} of {total} are free",
        remedy=smaller_model,
        patterns=(*_OUT_OF_MEMORY, r"Failed to create unquantized linear weights: CUDA out of memory"),
        unless=rf"{_PROFILING}|{_ALLOCATING_KV_CACHE}|{_WARMING_UP}",
    ),
    KnownFailure(
        code="kv-cache-too-small",
        seen="`To serve at least one request with the model's max seq len (8192), … KV cache is needed`.",
        cause="one request of MAX_MODEL_LEN={length} tokens needs {needed} GiB of KV cache, but only "
        "{available} GiB are available",
        remedy=shorter_context,
        patterns=(
            r"max seq len \((?P<length>\d+)\), \(?(?P<needed>[\d.]+) GiB KV cache is needed, which is larger "
            r"than the available KV cache memory \((?P<available>[\d.]+) GiB\)\."
            r"(?:.*?estimated maximum model length is (?P<fits>\d+))?",
        ),
        hints=_KV_CACHE_HINTS,
    ),
    KnownFailure(
        code="no-memory-for-kv-cache",
        seen="`No available memory for the cache blocks`.",
        cause="the weights and the largest batch leave no memory for the KV cache",
        remedy=room_for_kv_cache,
        patterns=(r"No available memory for the cache blocks",),
        hints=(r"Available KV cache memory: (?P<available>-?[\d.]+) GiB",),
    ),
    KnownFailure(
        code="gpu-memory-in-use",
        seen="`Free memory on device cuda:0 (31.44/47.38 GiB) on startup is less than desired GPU memory "
        "utilization`.",
        cause="GPU_MEMORY_UTILIZATION={share} needs {wanted} GiB, but only {free} of {total} GiB are free "
        "on the GPU",
        remedy=share_that_is_free,
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
        remedy=share_that_is_free,
        patterns=(
            r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup is less "
            r"than desired CPU memory utilization \((?P<share>[\d.]+), (?P<wanted>[\d.]+) GiB\)",
        ),
    ),
    KnownFailure(
        code="ram-below-kv-cache",
        seen="`Available memory on node 0 (…) on kv cache allocation is less than requested memory for kv`.",
        cause="the KV cache needs {wanted} GiB of RAM, but only {free} of {total} GiB are available",
        remedy=kv_that_is_free,
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
        remedy=more_host_memory,
        patterns=(
            r"DefaultCPUAllocator: can't allocate memory",
            r"\[Errno 12\]|Cannot allocate memory",
            r"^MemoryError\b|std::bad_alloc",
        ),
        unless=r"parse_safetensors_file_metadata",
        stage=Stage.ANY,
    ),
)
