"""Explains the end of an engine, with the facts of its run: settings, plan, device, kernel counters."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from vllm_engine.diagnosis.diagnose import diagnose
from vllm_engine.diagnosis.run_facts import Facts
from vllm_engine.engine.output.engine_exit import EngineExit
from vllm_engine.errors import Diagnosis
from vllm_engine.models.model_config import attention_heads
from vllm_engine.plan.engine_command import flag_number, is_switched_on
from vllm_engine.plan.engine_plan import EnginePlan
from vllm_engine.plan.given_flags import given_flags
from vllm_engine.plan.model_files import files_of
from vllm_engine.plan.parallel.ranks import Ranks
from vllm_engine.plan.preflight import Preflight
from vllm_engine.sizing.kv_cache import loaded_bytes


class Explainer:
    """Holds what is known of this run; `explain` reads the rest from the machine."""

    def __init__(self, preflight: Preflight) -> None:
        self._facts = known_facts(preflight)
        self._oom_kills_before = oom_kills()

    def planned(self, preflight: Preflight, plan: EnginePlan) -> None:
        """Record the settings and the plan with which an engine is about to be started."""
        config, dtype, length = plan.model.config, plan.dtype.value, plan.max_model_len.value
        files = files_of(plan.model, preflight)
        self._facts = dataclasses.replace(
            known_facts(preflight),
            dtype=dtype,
            max_model_len=int(length) if length.isdigit() else None,
            tensor_parallel=int(plan.tensor_parallel.value),
            split_over=Ranks.of(preflight.settings, int(plan.tensor_parallel.value)).replica,
            attention_heads=attention_heads(config),
            weight_bytes=loaded_bytes(files.weight_bytes, config, dtype) if files else None,
        )
        self._oom_kills_before = oom_kills()

    def explain(self, ending: EngineExit) -> Diagnosis:
        """Return why an engine ended and what to do; reads a few small files of the kernel's."""
        return diagnose(ending, with_host(self._facts, self._oom_kills_before))


def known_facts(preflight: Preflight) -> Facts:
    """Return what is known before the model has been read."""
    settings, device, flags = preflight.settings, preflight.device, preflight.flags
    return Facts(
        model=settings.model_id,
        given=given_flags(preflight),
        is_local=settings.is_local_model,
        revision=settings.model_revision,
        has_token=settings.hf_token is not None,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len if isinstance(settings.max_model_len, int) else None,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        tensor_parallel=settings.tensor_parallel if isinstance(settings.tensor_parallel, int) else 1,
        split_over=Ranks.of(settings).replica,
        nodes=settings.nodes,
        node_rank=settings.node_rank,
        head_address=settings.head_address,
        device=device.kind,
        gpus=len(device.gpus),
        gpu_memory_bytes=min((gpu.memory_bytes for gpu in device.gpus), default=0),
        kv_cache_memory_bytes=flag_number(flags, "kv-cache-memory-bytes"),
        max_num_seqs=flag_number(flags, "max-num-seqs"),
        max_num_batched_tokens=flag_number(flags, "max-num-batched-tokens"),
        enforce_eager=is_switched_on(flags, "enforce-eager"),
        cache_dir=str(settings.cache_dir),
        startup_timeout_seconds=settings.startup_timeout_seconds,
        vllm_version=preflight.installation.version,
    )


def with_host(facts: Facts, oom_kills_before: int, root: Path = Path("/")) -> Facts:
    """Add the present state of the machine: disk, shared memory, the cgroup's limit and its OOM kills."""
    return dataclasses.replace(
        facts,
        cache_free_bytes=_disk(Path(facts.cache_dir), free=True),
        shm_bytes=_disk(root / "dev/shm", free=False),
        memory_limit_bytes=memory_limit(root),
        oom_kills=max(0, oom_kills(root) - oom_kills_before),
    )


def oom_kills(root: Path = Path("/")) -> int:
    """Return how often the kernel's OOM killer acted in this cgroup (v2, then v1)."""
    for name in ("sys/fs/cgroup/memory.events", "sys/fs/cgroup/memory/memory.oom_control"):
        for line in _text(root / name).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.strip().isdigit():
                return int(value)
    return 0


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return this cgroup's memory limit in bytes; None where there is none."""
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _text(root / name).strip()
        # Without a limit v1 shows a number near 2^63, v2 the word max.
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None


def _disk(path: Path, *, free: bool) -> int | None:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return usage.free if free else usage.total


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return ""
