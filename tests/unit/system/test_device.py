"""The machine: CPUs from their flags, GPUs as CUDA shows them, memory within the cgroup, the limit on open files."""

from __future__ import annotations

import resource
import subprocess
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from vllm_engine.system import device
from vllm_engine.system.device import (
    Gpu,
    find_device,
    free_memory_bytes,
    gpu_loads,
    parse_cpuinfo,
    total_memory_bytes,
    usable_cores,
    visible_gpus,
)
from vllm_engine.system.file_limit import connection_shares

A, B, C = (Gpu(name, (8, 0), 1) for name in "abc")


def test_cpu() -> None:
    """x86 and Arm CPUs tell by their flags; one without a name is called by its architecture."""
    for flags, bfloat16 in (
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("", False),
    ):
        text = "\n".join(f"processor\t: {n}\nmodel name\t: Some CPU\n{flags}\n" for n in range(2))
        assert parse_cpuinfo(text, "x") == ("Some CPU", bfloat16)
    assert parse_cpuinfo("", "riscv64") == ("riscv64", False)


def test_visible_gpus() -> None:
    """CUDA_VISIBLE_DEVICES narrows the list, and an index that is not there ends it."""
    shown = {None: (A, B, C), "": (), "2,0": (C, A), "0,9,1": (A,), "-1": (), "GPU-1234,GPU-5678": (A, B)}
    for visible, expected in shown.items():
        assert visible_gpus((A, B, C), visible) == expected
    # The real look-up works on any machine, with or without a GPU.
    assert find_device("cpu", {}).cores >= 1
    assert find_device("cuda", {"CUDA_VISIBLE_DEVICES": ""}).gpus == ()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "450000 100000\n"}, 4),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_usable_cores(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """A container's CPU limit counts, in both versions of cgroups: `docker run --cpus`, `resources.limits.cpu`."""
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert usable_cores(tmp_path, visible=16) == expected


V1, V2 = "sys/fs/cgroup/memory/memory", "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "expected", "total"),
    [
        ({}, 4096 * 1024, 9 * 1024),
        ({f"{V2}.max": "max\n", f"{V2}.current": "5"}, 4096 * 1024, 9 * 1024),
        ({f"{V2}.max": "1000", f"{V2}.current": "400"}, 600, 1000),
        ({f"{V1}.limit_in_bytes": "100", f"{V1}.usage_in_bytes": "500"}, 0, 100),
    ],
)
def test_free_memory(tmp_path: Path, files: dict[str, str], expected: int, total: int) -> None:
    """Both versions of cgroups narrow what the kernel has."""
    for name, text in ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4096 kB\n"} | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert (free_memory_bytes(tmp_path), total_memory_bytes(tmp_path)) == (expected, total)


def test_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's version and the newest CUDA it runs, as NVML tells them; a machine without NVML has none."""
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion_v2", lambda: 12080)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "570.86.15")
    assert device.nvidia_driver() == device.Driver("570.86.15", (12, 8))

    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert device.nvidia_driver() is None


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, [0, 1, 2]), ("2,0", [0, 2]), ("GPU-b", [1]), ("MIG-x", [0, 1, 2]), ("", []), ("7", [])],
)
def test_gpu_loads(monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[int]) -> None:
    """The GPUs that the engine may use, as a stub of NVML tells them; what it does not tell is not made up."""

    def untold(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    stub: dict[str, Any] = {
        "Init": lambda: None,
        "Shutdown": lambda: None,
        "DeviceGetCount": lambda: 3,
        "DeviceGetHandleByIndex": lambda index: index,
        "DeviceGetUUID": lambda index: f"GPU-{'abc'[index]}-1234",
        "DeviceGetName": lambda _: "NVIDIA H100",
        "DeviceGetMemoryInfo": lambda _: SimpleNamespace(total=80 << 30, used=60 << 30, free=20 << 30),
        "DeviceGetUtilizationRates": lambda index: (
            untold() if index == 2 else SimpleNamespace(gpu=97, memory=40)
        ),
        "DeviceGetTemperature": lambda _, sensor: 61 if sensor == pynvml.NVML_TEMPERATURE_GPU else untold(),
        "DeviceGetPowerUsage": untold,
    }
    for name, answer in stub.items():
        monkeypatch.setattr(pynvml, f"nvml{name}", answer)
    loads = gpu_loads(visible)
    assert [load.index for load in loads] == expected
    for load in loads:
        busy = None if load.index == 2 else 0.97
        told = (load.memory_used_bytes, load.memory_total_bytes, load.utilization, load.temperature_celsius)
        assert (*told, load.power_watts) == (60 << 30, 80 << 30, busy, 61, None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", untold)
    assert gpu_loads(None) == (), "a GPU that fell off the bus"
    monkeypatch.setattr(pynvml, "nvmlInit", untold)
    assert gpu_loads(None) == (), "no driver"


def test_shares_of_open_files() -> None:
    """Whatever clients do, files are left: for each request at the engine two, and some for ourselves."""
    for files, in_flight, has_health_port in product((64, 1024, 1_048_576), (1, 512, 100_000), (True, False)):
        shares = connection_shares(
            files, max_connections=10_000_000, max_in_flight=in_flight, has_health_port=has_health_port
        )
        health = shares.health if has_health_port else 0
        assert shares.api >= 1
        assert shares.api + 2 * min(in_flight, shares.api) + health <= files - min(160, files // 2)
    plenty = connection_shares(65_536, max_connections=100, max_in_flight=512, has_health_port=True)
    assert (plenty.api, plenty.health, plenty.files_needed) == (100, 64, 100 + 2 * 100 + 160 + 64)
    login_shell = connection_shares(1024, max_connections=16_384, max_in_flight=32, has_health_port=False)
    assert login_shell.api == 1024 - 160 - 64


def test_soft_limit_is_raised() -> None:
    """To the hard one, in this process and so in its children."""
    hard = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    program = (
        "import resource; from vllm_engine.system.file_limit import raise_file_limit;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (512, {hard}));"
        "print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert subprocess.check_output([sys.executable, "-c", program]).split() == [b"%d" % hard] * 3
