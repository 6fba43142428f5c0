"""What to do where memory is not enough: on the GPU, for the KV cache, or on the host."""

from __future__ import annotations

import math
import re

from vllm_engine.diagnosis.known_failure import Advice, Groups, setting
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.system.sizes import GIB, gib

STEP = 0.05
"""By how much `GPU_MEMORY_UTILIZATION` is lowered at a time: 1 GiB on a card of 20."""
MOST_UTILIZATION = 0.95
"""More leaves too little for what vLLM does not count, such as other processes' CUDA contexts."""
LEAST_UTILIZATION = 0.1
"""Less holds no model worth a GPU: the share is not what is wrong."""
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": GIB}
_BLOCK = 1 << 26
"""Sizes of a KV cache are advised in multiples of this, 64 MiB."""


def _bytes(amount: str) -> int:
    number, unit = amount.split()
    return int(float(number) * _UNITS[unit])


def _needed(groups: Groups) -> int:
    """Return the KV cache that one request needs; vLLM rounds what it says to 0.01 GiB."""
    return math.ceil((float(groups["needed"]) + 0.01) * GIB / _BLOCK) * _BLOCK


def _kv_bytes(groups: Groups, facts: Facts) -> int | None:
    """Return the size of the KV cache if it was given; None if vLLM chose it."""
    if facts.kv_cache_memory_bytes is None and "reserved" in groups:
        return int(float(groups["reserved"]) * GIB)
    return facts.kv_cache_memory_bytes


def _kv_room(groups: Groups, facts: Facts) -> int | None:
    """Return the largest KV cache that fits beside weights and some working memory; None where unknown."""
    if "initial" not in groups or "weights" not in groups:
        return None
    beside = (float(groups["initial"]) - float(groups["weights"])) * GIB - STEP * facts.gpu_memory_bytes
    return max(0, int(beside // _BLOCK) * _BLOCK)


def _less_kv_cache(groups: Groups, facts: Facts) -> Advice:
    """Advise a smaller KV cache, by whichever setting gave its size."""
    given = _kv_bytes(groups, facts)
    if given is None:
        lower = round(facts.gpu_memory_utilization - STEP, 2)
        if lower < LEAST_UTILIZATION:
            return Advice("serve a smaller or quantised model")
        return setting("GPU_MEMORY_UTILIZATION", f"{lower:g}")
    fits = given - int(STEP * (facts.gpu_memory_bytes or given))
    if groups.keys() >= {"tried", "free"}:
        fits -= max(0, _bytes(groups["tried"]) - _bytes(groups["free"]))
    room = _kv_room(groups, facts)
    fits = (fits if room is None else min(fits, room)) // _BLOCK * _BLOCK
    unset = "vLLM then sizes the cache by GPU_MEMORY_UTILIZATION"
    if fits <= 0:
        return Advice(f"unset KV_CACHE_MEMORY_BYTES: {unset}")
    return setting("KV_CACHE_MEMORY_BYTES", fits, f" ({gib(fits)}) or less, or unset it: {unset}")


def _others(groups: Groups) -> str:
    """Advise to end other programs, unless torch names every user of the memory and this is the only one."""
    users = groups.get("users", "")
    is_alone = "this process has" in users and not re.search(r"\bProcess \d+ has", users)
    return "" if is_alone else "; or end other programs that use the GPU"


def _split(facts: Facts) -> str:
    more = facts.next_tensor_parallel
    return f", or set TENSOR_PARALLEL={more} to split it over more GPUs" if more else ""


def smaller_model(groups: Groups, facts: Facts) -> Advice:
    """Advise a model whose weights fit."""
    known = [f"this GPU has {gib(facts.gpu_memory_bytes)}"] if facts.gpu_memory_bytes else []
    if facts.weight_bytes:
        split = f" on each of {facts.split_over} GPUs" if facts.split_over > 1 else ""
        known.append(f"the weights need {gib(facts.weight_bytes // facts.split_over)}{split}")
    size = f" ({', '.join(known)})" if known else ""
    more = facts.next_tensor_parallel
    return Advice(
        f"serve a smaller or quantised model{size}{_split(facts)}{_others(groups)}",
        {"TENSOR_PARALLEL": str(more)} if more else {},
    )


def smaller_batch(groups: Groups, facts: Facts) -> Advice:
    """Advise a smaller batch."""
    now = facts.max_num_batched_tokens or int(groups.get("batched", 0)) or None
    # vLLM refuses fewer than MAX_NUM_SEQS.
    fewer = max(512, facts.max_num_seqs or 0, (now or facts.max_model_len or 8192) // 4)
    if now is not None and fewer >= now:
        return Advice(f"serve a smaller or quantised model{_split(facts)}{_others(groups)}")
    was = f" (now {now})" if now else ""
    rest = f"{was}, which shrinks the largest batch{_split(facts)}{_others(groups)}"
    return setting("MAX_NUM_BATCHED_TOKENS", fewer, rest)


def smaller_kv_cache(groups: Groups, facts: Facts) -> Advice:
    """Advise a smaller KV cache."""
    less = _less_kv_cache(groups, facts)
    return Advice(less.text + _others(groups), less.changes)


def less_to_warm_up(groups: Groups, facts: Facts) -> Advice:
    """Advise a smaller KV cache, or fewer requests at once."""
    less = _less_kv_cache(groups, facts)
    now = int(groups["requests"]) if "requests" in groups else facts.max_num_seqs
    fewer = max(1, now // 2) if now else 64
    eager = "" if facts.enforce_eager else "; ENFORCE_EAGER=1 saves the memory of CUDA graphs"
    changes = {**less.changes, "MAX_NUM_SEQS": str(fewer)} if now else less.changes
    if not less.changes and not less.text.startswith("unset"):
        return Advice(f"set MAX_NUM_SEQS={fewer}{eager}; or {less.text}", changes)
    joint = " or " if "GPU_MEMORY_UTILIZATION" in less.changes else "; or set "
    return Advice(f"{less.text}{joint}MAX_NUM_SEQS={fewer}{eager}", changes)


def more_room(groups: Groups, facts: Facts) -> Advice:
    """Advise a smaller KV cache while serving."""
    less = _less_kv_cache(groups, facts)
    rest = "; long prompts need less with a smaller MAX_NUM_BATCHED_TOKENS"
    return Advice(f"to leave more memory beside the KV cache, {less.text}{rest}", less.changes)


def shorter_context(groups: Groups, facts: Facts) -> Advice:
    """Advise a shorter context, or a larger KV cache."""
    fits = groups.get("fits")
    shorter = f"set MAX_MODEL_LEN={fits} or less" if fits else "set a smaller MAX_MODEL_LEN"
    changes = {"MAX_MODEL_LEN": fits} if fits else {}
    if facts.device == "cpu":
        more = f", or KV_CACHE_MEMORY_BYTES={_needed(groups)} if there is enough RAM" if groups else ""
    elif (given := _kv_bytes(groups, facts)) is not None:
        more = _more_kv_bytes(groups, facts, given)
    else:
        more = _more_utilization(groups, facts)
    return Advice(shorter + more, changes)


def _more_kv_bytes(groups: Groups, facts: Facts, given: int) -> str:
    room, needed = _kv_room(groups, facts), _needed(groups)
    if room is None:
        return f", or KV_CACHE_MEMORY_BYTES={needed} ({gib(needed)}) if it fits"
    if needed <= room:
        return f", or KV_CACHE_MEMORY_BYTES={needed} ({gib(needed)})"
    if given < room:
        return f"; KV_CACHE_MEMORY_BYTES={room} ({gib(room)}) fits and allows longer requests{_split(facts)}"
    return _split(facts)


def _more_utilization(groups: Groups, facts: Facts) -> str:
    if not facts.gpu_memory_bytes:
        return ", or raise GPU_MEMORY_UTILIZATION"
    missing = (float(groups["needed"]) - float(groups["available"])) * GIB
    wanted = math.ceil((facts.gpu_memory_utilization + _share(missing, facts.gpu_memory_bytes)) * 100) / 100
    return f", or GPU_MEMORY_UTILIZATION={wanted:g}" if wanted <= MOST_UTILIZATION else _split(facts)


def _share(size: float, gpu_bytes: int | None) -> float:
    """Return a size as a share of a GPU; CUDA, and so vLLM, counts a little less than the driver says."""
    return size / (0.99 * gpu_bytes) if gpu_bytes else 0.0


def room_for_kv_cache(groups: Groups, facts: Facts) -> Advice:
    """Advise room for a KV cache."""
    if facts.device == "cpu" or _kv_bytes(groups, facts) is not None:
        return setting("KV_CACHE_MEMORY_BYTES", GIB, " or more")
    # What vLLM says is available is negative where even the weights and the batch exceed the share.
    lacking = max(0.0, -float(groups.get("available", 0))) * GIB
    least = facts.gpu_memory_utilization + _share(lacking, facts.gpu_memory_bytes)
    if least < MOST_UTILIZATION:
        more = min(MOST_UTILIZATION, math.ceil(round((least + STEP) * 100, 6)) / 100)
        return setting("GPU_MEMORY_UTILIZATION", f"{more:g}", f", or serve a smaller model{_split(facts)}")
    return Advice(f"serve a smaller or quantised model{_split(facts)}")


def share_that_is_free(groups: Groups, _facts: Facts) -> Advice:
    """Advise the share of memory that is free."""
    if "free" not in groups:
        return Advice("set GPU_MEMORY_UTILIZATION to the share that is free, or end what uses the memory")
    share = math.floor(float(groups["free"]) / float(groups["total"]) * 100) / 100
    if share < 0.1:
        return Advice("end the program that uses the memory, or choose another GPU with CUDA_VISIBLE_DEVICES")
    # An idle GPU's driver takes some too.
    others = ", or end what uses the memory" if share <= MOST_UTILIZATION else ""
    return setting("GPU_MEMORY_UTILIZATION", share, others)


def kv_that_is_free(groups: Groups, _facts: Facts) -> Advice:
    """Advise a KV cache that fits into free RAM."""
    if "free" not in groups:
        return Advice("set a smaller KV_CACHE_MEMORY_BYTES, or end what uses the memory")
    half = int(float(groups["free"]) * GIB / 2) >> 20 << 20
    return setting("KV_CACHE_MEMORY_BYTES", half, ", or end what uses the memory")


def more_host_memory(_groups: Groups, facts: Facts) -> Advice:
    """Advise more of the host's memory."""
    limit = f" (now {gib(facts.memory_limit_bytes)})" if facts.memory_limit_bytes else ""
    less = ", a smaller KV_CACHE_MEMORY_BYTES" if facts.device == "cpu" else ""
    return Advice(
        f"raise the container's memory limit{limit}: --memory in Docker, resources.limits.memory in "
        f"Kubernetes; or serve a smaller model{less}"
    )
