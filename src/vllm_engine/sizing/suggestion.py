"""Pure: the settings that a computed replica asks for, as `.env`, as a command and as Helm values."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_engine.sizing.replica import Replica
from vllm_engine.system.sizes import GIB

_IMAGE = "ghcr.io/vllm-engine/vllm-engine"


_GPUS_OF_A_MACHINE = 8


def machines(replica: Replica) -> int:
    """Return over how many machines a replica's GPUs are spread: eight GPUs are one."""
    count = replica.hardware.count
    return count // _GPUS_OF_A_MACHINE if count > _GPUS_OF_A_MACHINE and not count % _GPUS_OF_A_MACHINE else 1


def suggested_settings(replica: Replica) -> dict[str, str]:
    """Return the settings by their variables."""
    room, options = replica.room, replica.options
    found = {"MODEL_ID": replica.model.name}
    if options.dtype != "auto":
        found["DTYPE"] = options.dtype
    split = {
        "TENSOR_PARALLEL": room.tensor_parallel,
        "PIPELINE_PARALLEL": room.pipeline_parallel,
        "DATA_PARALLEL": options.data_parallel,
    }
    found |= {name: str(count) for name, count in split.items() if count > 1}
    if (nodes := machines(replica)) > 1:
        found["NODES"] = str(nodes)
    found["MAX_MODEL_LEN"] = str(replica.context_to_set or replica.load.context)
    if room.kv_bytes is not None:
        found["KV_CACHE_MEMORY_BYTES"] = str(room.kv_bytes)
    else:
        found["GPU_MEMORY_UTILIZATION"] = f"{options.gpu_memory_utilization:g}"
    if options.kv_cache_dtype:
        found["KV_CACHE_DTYPE"] = options.kv_cache_dtype
    if options.max_num_seqs:
        found["MAX_NUM_SEQS"] = str(options.max_num_seqs)
    if at_once := replica.at_once(replica.load.usual or replica.load.context):
        found["MAX_IN_FLIGHT"] = str(at_once)
    return found


def replica_count(replica: Replica) -> int:
    """Return how many replicas to run: for usual requests where they are known, else for the longest."""
    return replica.replicas(replica.load.usual or replica.load.context) or 1


def docker_command(replica: Replica) -> str | None:
    """Return the command that runs one replica, for a shell; None where it takes several machines."""
    if machines(replica) > 1:
        return None
    name = replica.model.name
    words = ["docker", "run", "--rm", "-it"]
    if not replica.hardware.is_cpu:
        words += ["--gpus", "all" if replica.hardware.count == 1 else str(replica.hardware.count)]
    words += [
        "--shm-size",
        "8g",
        "--stop-timeout",
        "45",
        "-p",
        "127.0.0.1:8000:8000",
        "-v",
        "model_cache:/cache",
    ]
    if Path(name).is_absolute():
        words += ["-v", f"{name}:{name}:ro"]
    for key, value in suggested_settings(replica).items():
        words += ["-e", f"{key}={value}"]
    words.append(f"{_IMAGE}:{'cpu' if replica.hardware.is_cpu else 'cuda'}")
    return shlex.join(words)


def env_file(replica: Replica) -> str:
    """Return the settings as lines of `.env`."""
    return "\n".join(f"{key}={_env_value(value)}" for key, value in suggested_settings(replica).items())


def _env_value(value: str) -> str:
    return (
        value
        if value.isascii() and not set(value) & set(" '\"#$\\\t")
        else "'" + value.replace("'", "\\'") + "'"
    )


def helm_values(replica: Replica) -> dict[str, Any]:
    """Return values for the chart deploy/helm/vllm-engine."""
    hardware, settings = replica.hardware, suggested_settings(replica)
    model: dict[str, Any] = {"id": settings.pop("MODEL_ID"), "maxLength": int(settings.pop("MAX_MODEL_LEN"))}
    values: dict[str, Any] = {"replicas": replica_count(replica), "model": model}
    split = {"tensor": "TENSOR_PARALLEL", "pipeline": "PIPELINE_PARALLEL", "data": "DATA_PARALLEL"}
    if parallel := {part: int(settings.pop(name)) for part, name in split.items() if name in settings}:
        values["parallel"] = parallel
    if nodes := int(settings.pop("NODES", 0)):
        values["multiNode"] = {"enabled": True, "nodes": nodes}
        values["networkPolicy"] = {"enabled": True}
    else:
        values["gpu"] = {"count": 0 if hardware.is_cpu else hardware.count}
    names = ("KV_CACHE_DTYPE", "KV_CACHE_MEMORY_BYTES", "MAX_NUM_SEQS")
    flags = {name: "--" + name.lower().replace("_", "-") for name in names}
    values["settings"] = {key: _number(value) for key, value in settings.items() if key not in flags}
    if given := [f"{flags[key]}={value}" for key, value in settings.items() if key in flags]:
        values["extraArgs"] = given
    if values["replicas"] > 1 and not nodes:
        values["workload"] = {"kind": "StatefulSet"}  # a claim for each, which every cluster has
    stored = math.ceil(replica.model.stored_bytes / GIB * 1.25) + 5
    values["cache"] = {"size": f"{stored}Gi"}
    if hardware.is_cpu:
        memory = f"{int(hardware.gpu.memory_gib)}Gi"
        values["resources"] = {"requests": {"memory": memory}, "limits": {"memory": memory}}
    elif (gpus := hardware.count // max(1, nodes)) > 1:
        # vLLM has a process for each GPU: what the chart has for one, as often.
        values["sharedMemory"] = f"{4 * gpus}Gi"
        values["resources"] = {
            "requests": {"cpu": 2 * gpus, "memory": f"{8 * gpus}Gi"},
            "limits": {"memory": f"{24 * gpus}Gi"},
        }
    return values


def values_file(replica: Replica) -> str:
    """Return those values as YAML."""
    return "\n".join(["# For the chart deploy/helm/vllm-engine.", *_yaml(helm_values(replica))])


def _yaml(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Write a dictionary of texts, numbers, lists and such dictionaries; JSON's texts are YAML's."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _yaml(value, indent + "  ")
        else:
            yield f"{indent}{key}: {json.dumps(value)}"


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
