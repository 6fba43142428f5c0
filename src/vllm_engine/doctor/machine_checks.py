"""Pure: checks of the machine and its storage, each from facts that were gathered elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllm_engine.config.settings import Settings
from vllm_engine.doctor.check import Check, fail, failed_by, ok, warn
from vllm_engine.errors import Problem
from vllm_engine.gateway.settings_check import client_connections
from vllm_engine.models.download_progress import human_bytes
from vllm_engine.plan.engine_plan import BOTH, Choice
from vllm_engine.system.device import Device, Driver, Gpu
from vllm_engine.system.sizes import GIB, gib

VLLM_FILES = 65_536
"""Enough for vLLM too, which warns of a limit on open files below 65,535 (0.32, `utils/system_utils.py`)."""

SHM_BYTES = GIB
"""What NCCL and vLLM's message queues need for several GPUs; Docker's default is 64 MiB."""

PARALLEL_KEYS = (
    *("TENSOR_PARALLEL", "PIPELINE_PARALLEL", "DATA_PARALLEL", "DISTRIBUTED_EXECUTOR"),
    *("NODES", "NODE_RANK", "HEAD_ADDRESS"),
)
"""Settings that may not fit the device or the machines."""

SPARE_BYTES = 2_000_000_000
"""Disk space for compile caches and what the hub client keeps beside the weights."""


def device_check(device: Device, problems: Sequence[Problem]) -> Check:
    """Check that the GPUs that this vLLM build needs are visible, and as many as requested."""
    if device.kind == "cuda" and not device.gpus:
        remedy = "give the container its GPUs (docker run --gpus all) or use the CPU build"
        return fail("device", "no GPU is visible, and this vLLM build needs one", remedy)
    memory = f", {gib(device.gpus[0].memory_bytes)} each" if device.gpus else f", {device.cores} cores"
    return failed_by(problems, "device", *PARALLEL_KEYS) or ok("device", f"{device.name}{memory}")


def driver_check(device: Device, driver: Driver | None, cuda: str | None) -> Check:
    """Check that the driver supports this CUDA version.

    Within a major version older drivers do as well (NVIDIA's CUDA Compatibility guide).
    """
    if device.kind == "cpu":
        return ok("driver", "not needed on CPU")
    if driver is None:
        remedy = "install the NVIDIA driver, and on Docker the NVIDIA Container Toolkit"
        return fail("driver", "no NVIDIA driver was found", remedy)
    newest = ".".join(map(str, driver.cuda))
    needed = _version(cuda)
    if needed is None:
        return ok("driver", f"{driver.version}, up to CUDA {newest}")
    found = (
        f"driver {driver.version} supports CUDA up to {newest}, vLLM was built for {needed[0]}.{needed[1]}"
    )
    if driver.cuda[0] < needed[0]:
        remedy = f"install a driver for CUDA {needed[0]}, or a vLLM build for CUDA {driver.cuda[0]}"
        return fail("driver", found, remedy)
    if driver.cuda < needed:
        return warn("driver", found, "install a newer driver if kernels fail to compile at runtime")
    return ok("driver", found)


def dtype_check(settings: Settings, device: Device, problems: Sequence[Problem]) -> Check:
    """Check that the device supports DTYPE."""
    if refused := failed_by(problems, "dtype", "DTYPE"):
        return refused
    if settings.dtype == "auto":
        return ok("dtype", f"auto: {'bfloat16' if device.supports_bfloat16 else 'float16'}")
    if settings.dtype in ("float32", "float") and device.gpus:
        return warn("dtype", f"DTYPE={settings.dtype} takes twice the memory", "set DTYPE=auto")
    return ok("dtype", settings.dtype)


def frontend_check(asked: str, chosen: Choice, remedy: str = "") -> Check:
    """Say which of vLLM's frontends serve, and why; warns if both are asked for and cannot.

    `remedy` is what to do to have both, if that is known.
    """
    if asked == BOTH and chosen.value != BOTH:
        other = f"{remedy or 'change that'}, or set ENGINE_FRONTEND=python"
        return warn("frontend", f"{chosen.value} alone; {chosen.source}", other)
    return ok("frontend", chosen.value if asked == chosen.value else f"{chosen.value}; {chosen.source}")


def free_gpu_memory_check(gpus: Sequence[Gpu], utilization: float) -> Check:
    """Check that as much of each GPU is free as vLLM will ask for; it refuses to start otherwise."""
    known = [gpu for gpu in gpus if gpu.free_bytes is not None and gpu.memory_bytes]
    if not known:
        return ok("gpu_memory", "unknown" if gpus else "no GPU is used")
    share = min((gpu.free_bytes or 0) / gpu.memory_bytes for gpu in known)
    if share >= utilization:
        return ok("gpu_memory", f"{share:.0%} free, {utilization:.0%} needed")
    fits = max(0.0, int(share * 100 - 1) / 100)
    found = f"only {share:.0%} of a GPU's memory is free, {utilization:.0%} is needed"
    remedy = f"stop the other processes on that GPU, or set GPU_MEMORY_UTILIZATION={fits:.2f}"
    return fail("gpu_memory", found, remedy)


def shm_check(total_bytes: int | None, tensor_parallel: int) -> Check:
    """Check that /dev/shm is large enough for GPUs to communicate through it."""
    if total_bytes is None:
        return warn("shm", "there is no /dev/shm", "mount one: docker run --shm-size=8g, or --ipc=host")
    if tensor_parallel > 1 and total_bytes < SHM_BYTES:
        found = f"{gib(total_bytes)} of /dev/shm is too little for {tensor_parallel} GPUs"
        return fail("shm", found, f"docker run --shm-size={tensor_parallel * 4}g, or --ipc=host")
    return ok("shm", gib(total_bytes))


def files_check(files: int, settings: Settings) -> Check:
    """Check that all the connections that the settings allow are served where `files` may be open."""
    shares, wanted = client_connections(settings, files), settings.max_connections
    if shares.api == wanted:
        return ok("files", f"{files} may be open, {shares.files_needed} needed")
    found = (
        f"only {files} files may be open, MAX_CONNECTIONS={wanted} needs {shares.files_needed}: "
        f"at most {shares.api} client connections"
    )
    enough = max(shares.files_needed, VLLM_FILES)
    remedy = f"raise the hard limit (ulimit -Hn; docker run --ulimit nofile={enough})"
    return warn("files", found, f"{remedy}, or set MAX_CONNECTIONS={shares.api}")


def port_check(settings: Settings, problems: Sequence[Problem], running: str | None = None) -> Check:
    """Check that the server can listen on HOST and PORT, or does so already, with the model `running`."""
    address = f"{settings.host}:{settings.port}"
    if running is not None:
        return ok("port", f"{address} is in use by a vllm-engine that runs already and serves {running}")
    return failed_by(problems, "port") or ok("port", f"{address} is free")


def cache_check(cache_dir: Path, problems: Sequence[Problem]) -> Check:
    """Check that CACHE_DIR is writable."""
    return failed_by(problems, "cache", "CACHE_DIR") or ok("cache", f"{cache_dir} is writable")


def space_check(cache_dir: Path, free_bytes: int, missing_bytes: int | None) -> Check:
    """Check that there is room for what is still to be downloaded.

    Args:
        cache_dir: where it goes.
        free_bytes: what is free there.
        missing_bytes: how much of the model is missing; None where the hub did not report its size.
    """
    free = f"{human_bytes(free_bytes)} free in {cache_dir}"
    if missing_bytes is None:
        return warn("space", f"{free}; the model's size is unknown", "make sure that it fits")
    found = f"{free}, {human_bytes(missing_bytes)} to download"
    short = missing_bytes + SPARE_BYTES - free_bytes
    remedy = f"free {human_bytes(max(0, short))} there, or set CACHE_DIR to a larger volume"
    if free_bytes < missing_bytes:
        return fail("space", found, remedy)
    if short > 0:
        return warn("space", f"{found}, and compile caches need some more", remedy)
    return ok("space", found)


def _version(text: str | None) -> tuple[int, int] | None:
    parts = (text or "").split(".")
    return (int(parts[0]), int(parts[1])) if len(parts) >= 2 and all(map(str.isdigit, parts[:2])) else None
