"""Pure: what would make a model fit: a shorter context, more GPUs, fewer bits, another GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from vllm_engine.errors import SettingsError
from vllm_engine.sizing.gpus import GPUS, Hardware
from vllm_engine.sizing.kv_cache import quantization
from vllm_engine.sizing.replica import Options, Replica, SizedModel, size_replica
from vllm_engine.system.sizes import gib

_FP8 = (8, 9)
_MORE_GPUS = (2, 3, 4, 5, 6, 7, 8, 16, 32, 64)
_BITS = ((8, 1 / 2, "FP8 or INT8"), (4, 0.3, "4-bit (AWQ, GPTQ)"))
"""Bits of a weight, about what part of 16 bits they take with all that stays as it was, and their name."""


def ways_out(replica: Replica) -> list[str]:
    """Return what would let one request of the whole context run, each as one sentence to act on."""
    if replica.fits:
        return []
    return [*_shorter(replica), *_fewer_bits(replica), *_more_gpus(replica), *_other_gpu(replica)]


def _shorter(replica: Replica) -> Iterator[str]:
    if (context := replica.context_to_set) and context < replica.load.context:
        yield f"a shorter context: --context {context}"


def _fewer_bits(replica: Replica) -> Iterator[str]:
    if fp8_cache(replica) is not None:
        yield "a KV cache of 8 bits: --kv-cache-dtype fp8"
    if quantization(replica.model.config) is not None:
        return
    whole = replica.room.weight_bytes or 0
    for _, part, name in _BITS:
        smaller = SizedModel(
            replica.model.name, {**replica.model.config, "quantization_config": {}}, int(whole * part)
        )
        if _fitting(replica, smaller, replica.hardware, replica.options):
            yield f"a quantised model: {name} weights take about {gib(smaller.stored_bytes)}"
            return


def fp8_cache(replica: Replica) -> Replica | None:
    """Return the same with a KV cache of 8 bits; None where it would not fit, or the GPU lacks FP8."""
    capability = replica.hardware.gpu.capability
    if replica.room.kv_value_bytes == 1 or replica.hardware.is_cpu or (capability and capability < _FP8):
        return None
    options = replace(replica.options, kv_cache_dtype="fp8")
    return _fitting(replica, replica.model, replica.hardware, options)


def fewer_gpus(replica: Replica) -> Replica | None:
    """Return a replica of more GPUs with which the same users need fewer in all; None where there is none.

    What the weights leave of each GPU grows with the GPUs that share them.
    """
    options = replace(replica.options, tensor_parallel=None, pipeline_parallel=None)
    least, best = gpus_in_all(replica), None
    for count in _MORE_GPUS:
        if replica.hardware.count < count <= 8 and not replica.hardware.is_cpu:
            larger = _fitting(replica, replica.model, replace(replica.hardware, count=count), options)
            if larger and larger.room.pipeline_parallel == 1 and 0 < gpus_in_all(larger) < least:
                least, best = gpus_in_all(larger), larger
    return best


def gpus_in_all(replica: Replica) -> int:
    """Return how many GPUs the users need; 0 where that is not known."""
    return replica.hardware.count * (replica.replicas(replica.load.usual or replica.load.context) or 0)


def _more_gpus(replica: Replica) -> Iterator[str]:
    """Name the fewest GPUs that share each layer, or else the fewest that share the layers as well."""
    if replica.hardware.is_cpu:
        return
    options = replace(replica.options, tensor_parallel=None, pipeline_parallel=None)
    counts = [count for count in _MORE_GPUS if count > replica.hardware.count]
    tried = (
        _fitting(replica, replica.model, replace(replica.hardware, count=count), options) for count in counts
    )
    found = [each for each in tried if each]
    found.sort(key=lambda each: (each.hardware.count > 8, each.room.pipeline_parallel > 1))
    if found:
        room = found[0].room
        split = f"TENSOR_PARALLEL={room.tensor_parallel}"
        split += f", PIPELINE_PARALLEL={room.pipeline_parallel}" if room.pipeline_parallel > 1 else ""
        yield f"more GPUs: {found[0].hardware.in_words} ({split})"


def _other_gpu(replica: Replica) -> Iterator[str]:
    here = replica.hardware
    for gpu in sorted(GPUS, key=lambda gpu: gpu.memory_gib):
        if gpu.memory_gib > here.gpu.memory_gib or here.is_cpu:
            other = Hardware(gpu, here.count)
            if _fitting(replica, replica.model, other, replica.options):
                yield (
                    f"GPUs with more memory: {other.in_words}"
                    if not here.is_cpu
                    else f"a GPU: {other.in_words}"
                )
                return


def _fitting(replica: Replica, model: SizedModel, hardware: Hardware, options: Options) -> Replica | None:
    try:
        found = size_replica(model, hardware, replica.load, options)
    except SettingsError:  # cannot be split so
        return None
    return found if found.fits else None
