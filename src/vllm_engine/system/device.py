"""What this machine computes on, found without importing torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pynvml

BFLOAT16_CAPABILITY = (8, 0)
"""First CUDA compute capability with bfloat16 (Ampere), as vLLM's CUDA platform has it."""


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU that the engine may use; `free_bytes` is None where the driver does not tell."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver, and the newest CUDA it can run."""

    version: str
    cuda: tuple[int, int]


@dataclass(frozen=True)
class Device:
    """What the engine runs on: the GPUs it may use, or the CPU."""

    kind: Literal["cuda", "cpu"]
    name: str
    supports_bfloat16: bool
    gpus: tuple[Gpu, ...] = ()
    cores: int = 1


def find_device(kind: Literal["cuda", "cpu"], environ: Mapping[str, str]) -> Device:
    """Describe the device of the given kind.

    Args:
        kind: what the installed vLLM was built for.
        environ: the environment the engine will get; `CUDA_VISIBLE_DEVICES` narrows the GPUs.

    Returns:
        A `cuda` device without GPUs where none is visible: the caller decides what that means.
    """
    cores = len(os.sched_getaffinity(0))
    if kind == "cpu":
        name, bfloat16 = _cpu()
        return Device("cpu", name, bfloat16, cores=cores)
    gpus = visible_gpus(nvidia_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))
    name = f"{len(gpus)} x {gpus[0].name}" if gpus else "no GPU"
    bfloat16 = bool(gpus) and all(gpu.capability >= BFLOAT16_CAPABILITY for gpu in gpus)
    return Device("cuda", name, bfloat16, gpus=gpus, cores=cores)


def nvidia_gpus() -> tuple[Gpu, ...]:
    """List the GPUs that the NVIDIA driver shows; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def visible_gpus(gpus: tuple[Gpu, ...], visible: str | None) -> tuple[Gpu, ...]:
    """Narrow `gpus` by `CUDA_VISIBLE_DEVICES` (CUDA programming guide, appendix on environment variables).

    An index that does not exist ends the list, as in CUDA; UUIDs count but cannot be told apart here.
    """
    if visible is None:
        return gpus
    chosen: list[Gpu] = []
    for item in (part.strip() for part in visible.split(",")):
        if item.startswith(("GPU-", "MIG-")):
            chosen.append(gpus[min(len(chosen), len(gpus) - 1)] if gpus else Gpu(item, (0, 0), 0))
        elif item.isdigit() and int(item) < len(gpus):
            chosen.append(gpus[int(item)])
        else:
            break
    return tuple(chosen)


def parse_cpuinfo(text: str, machine: str) -> tuple[str, bool]:
    """Return the CPU's name and whether it computes bfloat16, from the text of `/proc/cpuinfo`."""
    fields = dict(line.split(":", 1) for line in reversed(text.splitlines()) if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(named.get("flags", named.get("Features", "")).split())
    name = named.get("model name", machine)
    return name, bool(flags & {"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})


def _cpu() -> tuple[str, bool]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return parse_cpuinfo(text, platform.machine())


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(str(name), (int(major), int(minor)), int(memory.total), int(memory.free))


def nvidia_driver() -> Driver | None:
    """Return the NVIDIA driver; None where there is none."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        # 12080 is CUDA 12.8 (NVML reference, nvmlSystemGetCudaDriverVersion_v2).
        cuda = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        return Driver(str(pynvml.nvmlSystemGetDriverVersion()), (cuda // 1000, cuda % 1000 // 10))
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return the main memory this process may still take: what the kernel has, within the cgroup's limit."""
    available = _meminfo(root / "proc/meminfo")
    v2 = _number(root / "sys/fs/cgroup/memory.max"), _number(root / "sys/fs/cgroup/memory.current")
    v1_folder = root / "sys/fs/cgroup/memory"
    v1 = _number(v1_folder / "memory.limit_in_bytes"), _number(v1_folder / "memory.usage_in_bytes")
    for limit, used in (v2, v1):
        if limit is not None and used is not None:
            available = min(available, max(0, limit - used))
    return available


def _meminfo(path: Path) -> int:
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{path} does not tell MemAvailable")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # not there, or "max": no limit
