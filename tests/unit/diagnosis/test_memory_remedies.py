"""What is advised where memory is not enough is computed from the run, and would help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.diagnosis.test_diagnosis import FACTS, OOM, ended, recorded
from vllm_engine.diagnosis.diagnose import diagnose
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.system.sizes import GIB

H100 = Facts(gpus=1, gpu_memory_bytes=int(79.18 * GIB), weight_bytes=125 * GIB)
SHARED = replace(H100, gpu_memory_utilization=0.01)
KV_BYTES = replace(H100, kv_cache_memory_bytes=GIB)
MANY = Facts(max_num_batched_tokens=2048, max_num_seqs=1024)
SMALL = replace(KV_BYTES, max_num_seqs=64, enforce_eager=True)


@pytest.mark.parametrize(
    ("name", "facts", "changes", "part"),
    [
        ("cpu-0.32-fail-kv-cache", FACTS, {"MAX_MODEL_LEN": "1280"}, "GPU_MEMORY_UTILIZATION=0.91"),
        ("cpu-0.32-fail-kv-cache", Facts(device="cpu"), None, "KV_CACHE_MEMORY_BYTES=268435456"),
        ("gpu-memory-in-use", FACTS, {"GPU_MEMORY_UTILIZATION": "0.66"}, "GPU_MEMORY_UTILIZATION=0.66"),
        ("ram-below-utilization", FACTS, {"GPU_MEMORY_UTILIZATION": "0.49"}, "0.49"),
        ("ram-below-kv-cache", FACTS, {"KV_CACHE_MEMORY_BYTES": "2044723200"}, "end what uses the memory"),
        ("kv-cache-too-small-gpu", SHARED, {"MAX_MODEL_LEN": "71360"}, "or less, or GPU_MEMORY_UTILIZATION=0.68"),
        ("kv-cache-too-small-kv-bytes", H100, {"MAX_MODEL_LEN": "3632"}, "; KV_CACHE_MEMORY_BYTES=45030047744 (41.9 GiB) fits and"),
        ("kv-cache-too-small-gpu", KV_BYTES, None, ", or KV_CACHE_MEMORY_BYTES=77376520192 (72.1 GiB) if it fits"),
        ("no-kv-memory-gpu", SHARED, {"GPU_MEMORY_UTILIZATION": "0.19"}, "GPU_MEMORY_UTILIZATION=0.19, or serve"),
        ("no-kv-memory-gpu", FACTS, {}, "smaller or quantised"),
        ("no-kv-memory-gpu", KV_BYTES, {"KV_CACHE_MEMORY_BYTES": str(GIB)}, "or more"),
        ("no-kv-memory", FACTS, {"GPU_MEMORY_UTILIZATION": "0.95"}, "GPU_MEMORY_UTILIZATION=0.95"),
        ("no-kv-memory", Facts(gpu_memory_utilization=0.97), {}, "smaller or quantised"),
        ("cuda-oom-loading", FACTS, {"TENSOR_PARALLEL": "2"}, "24.0 GiB"),
        ("cuda-oom-loading", Facts(gpus=1), {}, "smaller or quantised"),
        ("cuda-oom-loading-many", H100, {}, "(this GPU has 79.2 GiB, the weights need 125.0 GiB)"),
        ("cuda-oom-profiling", FACTS, {"MAX_NUM_BATCHED_TOKENS": "32768"}, "(now 131072)"),
        ("cuda-oom-profiling", Facts(max_num_batched_tokens=512), {}, "smaller or quantised"),
        ("cuda-oom-profiling", MANY, {"MAX_NUM_BATCHED_TOKENS": "1024"}, "(now 2048)"),
        ("cuda-oom-kv-cache", H100, {"KV_CACHE_MEMORY_BYTES": str(827 << 26)}, "(51.7 GiB) or less, or unset it"),
        ("cuda-oom-warming-up-kv-bytes", H100, {"KV_CACHE_MEMORY_BYTES": str(1037 << 26)}, "; or set MAX_NUM_SEQS=64;"),
        ("cuda-oom-warming-up-kv-bytes", SMALL, {"MAX_NUM_SEQS": "32"}, "unset KV_CACHE_MEMORY_BYTES: vLLM then"),
        ("cuda-oom-serving", Facts(kv_cache_memory_bytes=10 * GIB), {"KV_CACHE_MEMORY_BYTES": str(152 << 26)}, "9.5 GiB"),
        ("cuda-oom-warming-up", FACTS, {"GPU_MEMORY_UTILIZATION": "0.85", "MAX_NUM_SEQS": "128"}, "MAX_NUM_SEQS=128"),
        ("cuda-oom-serving", FACTS, {"GPU_MEMORY_UTILIZATION": "0.85"}, "GPU_MEMORY_UTILIZATION=0.85"),
        ("cuda-oom-serving", Facts(gpu_memory_utilization=0.1), {}, "serve a smaller or quantised model;"),
        ("cuda-oom-warming-up", Facts(gpu_memory_utilization=0.1), {"MAX_NUM_SEQS": "128"}, "set MAX_NUM_SEQS=128;"),
    ],
)  # fmt: skip
def test_memory_remedy(name: str, facts: Facts, changes: dict[str, str] | None, part: str) -> None:
    """Less of what was set: the KV cache by its bytes where they were given, else by the share of the GPU."""
    told = diagnose(recorded(name).ending, facts)
    assert part in told.remedy, told.remedy
    assert changes is None or told.changes == changes


def test_a_larger_share_is_reckoned_on_what_cuda_counts() -> None:
    """An H100 has 79.65 GiB for its driver and 79.18 for vLLM, of which one hundredth too few would not do."""
    text = (
        "To serve at least one request with the model's max seq len (8192), (42.6 GiB KV cache is needed, which "
        "is larger than the available KV cache memory (10.0 GiB)."
    )
    facts = replace(H100, gpu_memory_bytes=int(79.65 * GIB), gpu_memory_utilization=0.3)
    remedy = diagnose(ended(text), facts).remedy
    share = float(remedy.partition("GPU_MEMORY_UTILIZATION=")[2].split()[0].rstrip(",;"))
    assert (share - 0.3) * 79.18 >= 32.6, remedy


def test_other_programs_are_not_blamed_in_vain() -> None:
    """torch names each process that uses the GPU; in a container it may take the engine itself for another."""
    free = f"{OOM} GPU 0 has a total capacity of 79.18 GiB of which 1.00 GiB is free."
    own, other = (
        "Including non-PyTorch memory, this process has 70 GiB memory in use.",
        "Process 7 has 9 GiB memory in use.",
    )
    for users, told in (("", True), (own, False), (other, True), (f"{own} {other}", True)):
        remedy = diagnose(ended(f"{free} {users}"), H100).remedy
        assert ("end other programs" in remedy) is told, users
