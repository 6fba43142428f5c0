"""Pure: checks of the machine, each from facts that were gathered elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_engine.config.settings import Settings
from vllm_engine.doctor.check import GIB, Check, fail, gib, ok, warn
from vllm_engine.errors import Problem
from vllm_engine.system.device import Device, Driver, Gpu

SPARE_FILES = 256
"""Open files beside connections: the engine's pipes, logs, libraries."""

SHM_BYTES = GIB
"""What NCCL and vLLM's message queues want for several GPUs; Docker gives 64 MiB unless told otherwise."""


def device_check(device: Device, problems: Sequence[Problem]) -> Check:
    """Is there what this vLLM was built for, and as many GPUs as asked?"""
    if device.kind == "cuda" and not device.gpus:
        remedy = "give the container its GPUs (docker run --gpus all) or use the CPU build"
        return fail("device", "no GPU is visible, and this vLLM needs one", remedy)
    for problem in problems:
        if problem.key == "TENSOR_PARALLEL":
            return fail("device", f"{device.name}: TENSOR_PARALLEL={problem.value}", problem.wanted)
    memory = f", {gib(device.gpus[0].memory_bytes)} each" if device.gpus else f", {device.cores} cores"
    return ok("device", f"{device.name}{memory}")


def driver_check(device: Device, driver: Driver | None, cuda: str | None) -> Check:
    """Can the driver run this CUDA? Within a major version older drivers do (CUDA compatibility guide)."""
    if device.kind == "cpu":
        return ok("driver", "not needed on CPU")
    if driver is None:
        remedy = "install the NVIDIA driver, and on Docker the NVIDIA Container Toolkit"
        return fail("driver", "no NVIDIA driver answers", remedy)
    has = ".".join(map(str, driver.cuda))
    wanted = _version(cuda)
    if wanted is None:
        return ok("driver", f"{driver.version}, up to CUDA {has}")
    found = f"driver {driver.version} is for CUDA up to {has}, this vLLM for CUDA {wanted[0]}.{wanted[1]}"
    if driver.cuda[0] < wanted[0]:
        return fail(
            "driver", found, f"install a driver for CUDA {wanted[0]}, or a vLLM for CUDA {driver.cuda[0]}"
        )
    if driver.cuda < wanted:
        return warn(
            "driver", found, "kernels that are compiled on the spot may fail; a newer driver is safer"
        )
    return ok("driver", found)


def dtype_check(settings: Settings, device: Device, problems: Sequence[Problem]) -> Check:
    """Does the device compute what DTYPE asks?"""
    for problem in problems:
        if problem.key == "DTYPE":
            return fail("dtype", f"DTYPE={problem.value}", problem.wanted)
    if settings.dtype == "auto":
        return ok("dtype", f"auto: {'bfloat16' if device.supports_bfloat16 else 'float16'}")
    if settings.dtype in ("float32", "float") and device.gpus:
        return warn("dtype", f"DTYPE={settings.dtype} takes twice the memory", "set DTYPE=auto")
    return ok("dtype", settings.dtype)


def free_gpu_memory_check(gpus: Sequence[Gpu], utilization: float) -> Check:
    """Is as much of each GPU free as vLLM will ask for? It refuses to start otherwise."""
    known = [gpu for gpu in gpus if gpu.free_bytes is not None and gpu.memory_bytes]
    if not known:
        return ok("gpu_memory", "no GPU is used" if not gpus else "not known")
    share = min((gpu.free_bytes or 0) / gpu.memory_bytes for gpu in known)
    if share >= utilization:
        return ok("gpu_memory", f"{share:.0%} free, {utilization:.0%} wanted")
    fits = max(0.0, int(share * 100 - 1) / 100)
    remedy = f"end what else runs there, or set GPU_MEMORY_UTILIZATION={fits:.2f}"
    return fail(
        "gpu_memory", f"only {share:.0%} of a GPU's memory is free, {utilization:.0%} is wanted", remedy
    )


def shm_check(total_bytes: int | None, tensor_parallel: int) -> Check:
    """Is /dev/shm large enough for GPUs to talk through it?"""
    if total_bytes is None:
        return warn("shm", "there is no /dev/shm", "mount one: docker run --shm-size=8g, or --ipc=host")
    if tensor_parallel > 1 and total_bytes < SHM_BYTES:
        found = f"{gib(total_bytes)} of /dev/shm is too little for {tensor_parallel} GPUs"
        return fail("shm", found, f"docker run --shm-size={tensor_parallel * 4}g, or --ipc=host")
    return ok("shm", gib(total_bytes))


def files_check(soft: int, settings: Settings) -> Check:
    """May as many files be open as the settings allow connections?"""
    wanted = settings.max_connections + settings.max_in_flight + SPARE_FILES
    if soft >= wanted:
        return ok("files", f"{soft} may be open, {wanted} wanted")
    fits = soft - settings.max_in_flight - SPARE_FILES
    remedy = f"raise the limit (ulimit -n {wanted}; docker run --ulimit nofile={wanted})"
    if fits > 0:
        remedy += f", or set MAX_CONNECTIONS={fits}"
    return warn("files", f"only {soft} files may be open, MAX_CONNECTIONS wants {wanted}", remedy)


def port_check(settings: Settings, problems: Sequence[Problem]) -> Check:
    """Can HOST and PORT be listened on?"""
    for problem in problems:
        return fail("port", f"{problem.key}={problem.value}", problem.wanted)
    return ok("port", f"{settings.host}:{settings.port} can be listened on")


def _version(text: str | None) -> tuple[int, int] | None:
    parts = (text or "").split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) >= 2 and all(map(str.isdigit, parts[:2])) else None
