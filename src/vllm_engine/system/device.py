"""The GPUs, CPU and memory of this machine, found without importing torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

BFLOAT16_CAPABILITY = (8, 0)
"""The first CUDA compute capability with bfloat16 (Ampere), as in vLLM's CUDA platform."""


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU that the engine may use; `free_bytes` is None if the driver does not report it."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True)
class GpuLoad:
    """How busy one NVIDIA GPU is; a figure is None where the driver does not tell it, as of a MIG device."""

    index: int
    name: str
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    utilization: float | None
    """The share of the last second or so in which anything ran on it, from 0 to 1."""
    temperature_celsius: int | None
    power_watts: float | None


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver, and the newest CUDA version it supports."""

    version: str
    cuda: tuple[int, int]


@dataclass(frozen=True)
class Device:
    """What the engine runs on: GPUs, or the CPU."""

    kind: Literal["cuda", "cpu"]
    name: str
    supports_bfloat16: bool
    gpus: tuple[Gpu, ...] = ()
    cores: int = 1


def find_device(kind: Literal["cuda", "cpu"], environ: Mapping[str, str]) -> Device:
    """Describe the device of the given kind.

    Args:
        kind: what the installed vLLM build is for.
        environ: the engine's environment; `CUDA_VISIBLE_DEVICES` limits the GPUs.

    Returns:
        The device; without GPUs if it is `cuda` and none is visible.
    """
    cores = usable_cores()
    if kind == "cpu":
        name, bfloat16 = _cpu()
        return Device("cpu", name, bfloat16, cores=cores)
    gpus = visible_gpus(nvidia_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))
    name = f"{len(gpus)} x {gpus[0].name}" if gpus else "no GPU"
    bfloat16 = bool(gpus) and all(gpu.capability >= BFLOAT16_CAPABILITY for gpu in gpus)
    return Device("cuda", name, bfloat16, gpus=gpus, cores=cores)


def nvidia_gpus() -> tuple[Gpu, ...]:
    """List the GPUs that the NVIDIA driver reports; none without a driver."""
    with _nvml() as nvml:
        return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())) if nvml else ()


def gpu_loads(visible: str | None) -> tuple[GpuLoad, ...]:
    """Return how busy the GPUs are that `CUDA_VISIBLE_DEVICES` leaves the engine; takes milliseconds or more.

    Empty without a driver, and while it does not answer. A MIG device's figures are its whole GPU's.
    """
    with _nvml() as nvml:
        if nvml is None:
            return ()
        try:
            handles = {at: nvml.nvmlDeviceGetHandleByIndex(at) for at in range(nvml.nvmlDeviceGetCount())}
            seen = {at: one for at, one in handles.items() if _is_visible(nvml, at, one, visible)}
            return tuple(_load(nvml, at, one) for at, one in seen.items())
        except nvml.NVMLError:  # such as a GPU that has fallen off the bus
            return ()


def visible_gpus(gpus: tuple[Gpu, ...], visible: str | None) -> tuple[Gpu, ...]:
    """Filter `gpus` by `CUDA_VISIBLE_DEVICES` (CUDA Programming Guide, environment variables).

    An index that does not exist ends the list, as in CUDA. UUIDs are counted but not resolved.
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
    """Return the CPU's name and whether it supports bfloat16, from the text of `/proc/cpuinfo`."""
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


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    name = str(nvml.nvmlDeviceGetName(handle))
    return Gpu(name, (int(major), int(minor)), int(memory.total), int(memory.free))


def _is_visible(nvml: Any, index: int, handle: Any, visible: str | None) -> bool:
    if visible is None:
        return True
    uuid = str(_told(nvml, nvml.nvmlDeviceGetUUID, handle))
    items = [part.strip() for part in visible.split(",")]
    # A MIG device has an id of its own, which does not say whose part it is.
    return any(
        item == str(index) or item.startswith("MIG-") or (item.startswith("GPU-") and uuid.startswith(item))
        for item in items
    )


def _load(nvml: Any, index: int, handle: Any) -> GpuLoad:
    memory = _told(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _told(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    temperature = _told(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    milliwatts = _told(nvml, nvml.nvmlDeviceGetPowerUsage, handle)
    return GpuLoad(
        index=index,
        name=str(nvml.nvmlDeviceGetName(handle)),
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        utilization=None if rates is None else int(rates.gpu) / 100,
        temperature_celsius=None if temperature is None else int(temperature),
        power_watts=None if milliwatts is None else int(milliwatts) / 1000,
    )


def _told(nvml: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return None


def nvidia_driver() -> Driver | None:
    """Return the NVIDIA driver; None without one."""
    with _nvml() as nvml:
        if nvml is None:
            return None
        try:
            # 12080 is CUDA 12.8 (NVML reference, nvmlSystemGetCudaDriverVersion_v2).
            cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
            return Driver(str(nvml.nvmlSystemGetDriverVersion()), (cuda // 1000, cuda % 1000 // 10))
        except nvml.NVMLError:
            return None


@contextmanager
def _nvml() -> Iterator[Any]:
    """Open the NVIDIA Management Library; yields None without a driver."""
    import pynvml  # noqa: PLC0415 - 20 ms of processor time, on GPU machines alone

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def usable_cores(root: Path = Path("/"), visible: int | None = None) -> int:
    """Return how many cores this process may keep busy: those it may run on, within the cgroup's CPU limit.

    A part of a core does not count, but for the first.
    """
    cores = len(os.sched_getaffinity(0)) if visible is None else visible
    v1 = root / "sys/fs/cgroup/cpu"
    limits = [
        _words(root / "sys/fs/cgroup/cpu.max"),
        _words(v1 / "cpu.cfs_quota_us") + _words(v1 / "cpu.cfs_period_us"),
    ]
    for limit in limits:
        if len(limit) == 2 and limit[0].isdigit():  # else "max" or -1: no limit
            cores = min(cores, int(limit[0]) // int(limit[1]))
    return max(1, cores)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


_V1_LIMIT = "sys/fs/cgroup/memory/memory.limit_in_bytes"


def free_memory_bytes(root: Path = Path("/")) -> int:
    """Return the main memory available to this process: what the kernel has, within the cgroup's limit."""
    available = _meminfo(root / "proc/meminfo", "MemAvailable")
    v2 = _number(root / "sys/fs/cgroup/memory.max"), _number(root / "sys/fs/cgroup/memory.current")
    v1 = _number(root / _V1_LIMIT), _number(root / "sys/fs/cgroup/memory/memory.usage_in_bytes")
    for limit, used in (v2, v1):
        if limit is not None and used is not None:
            available = min(available, max(0, limit - used))
    return available


def total_memory_bytes(root: Path = Path("/")) -> int:
    """Return the main memory that this process may use in all: the machine's, within the cgroup's limit."""
    total = _meminfo(root / "proc/meminfo", "MemTotal")
    limits = _number(root / "sys/fs/cgroup/memory.max"), _number(root / _V1_LIMIT)
    return min([total, *(limit for limit in limits if limit is not None)])


def _meminfo(path: Path, name: str) -> int:
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"expected {name} in {path}")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None  # missing, or "max": no limit
