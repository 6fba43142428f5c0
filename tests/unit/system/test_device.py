"""Device: CPUs from their flags, GPUs as CUDA_VISIBLE_DEVICES shows them, memory within the cgroup."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from vllm_engine.system import device
from vllm_engine.system.device import Gpu, find_device, free_memory_bytes, parse_cpuinfo, visible_gpus

A, B, C = (Gpu(name, (8, 0), 1) for name in "abc")


@pytest.mark.parametrize(
    ("flags", "bfloat16"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("", False),
    ],
)
def test_cpu_bfloat16(flags: str, bfloat16: bool) -> None:
    """x86 and Arm CPUs tell by their flags."""
    text = f"processor\t: 0\nmodel name\t: Some CPU\n{flags}\n\nprocessor\t: 1\nmodel name\t: Some CPU\n{flags}\n"
    assert parse_cpuinfo(text, "x") == ("Some CPU", bfloat16)


def test_nameless_cpu() -> None:
    """A CPU without a name is called by its architecture."""
    assert parse_cpuinfo("", "riscv64") == ("riscv64", False)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, (A, B, C)),
        ("", ()),
        ("1", (B,)),
        ("2,0", (C, A)),
        ("0,9,1", (A,)),
        ("-1", ()),
        ("GPU-1234,GPU-5678", (A, B)),
    ],
)
def test_visible_gpus(visible: str | None, expected: tuple[Gpu, ...]) -> None:
    """CUDA_VISIBLE_DEVICES narrows the list, and an index that is not there ends it."""
    assert visible_gpus((A, B, C), visible) == expected


def test_this_machine() -> None:
    """The real look-up works on any machine, with or without a GPU."""
    assert find_device("cpu", {}).cores >= 1
    assert find_device("cuda", {"CUDA_VISIBLE_DEVICES": ""}).gpus == ()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4096 * 1024),
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5"}, 4096 * 1024),
        ({"sys/fs/cgroup/memory.max": "1000", "sys/fs/cgroup/memory.current": "400"}, 600),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "100",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "500",
            },
            0,
        ),
    ],
)
def test_free_memory(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """Both versions of cgroups narrow what the kernel has."""
    for name, text in ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4096 kB\n"} | files).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert free_memory_bytes(tmp_path) == expected


def test_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's version and the newest CUDA it runs, as NVML tells them."""
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion_v2", lambda: 12080)
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: "570.86.15")
    assert device.nvidia_driver() == device.Driver("570.86.15", (12, 8))


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without NVML has none."""

    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert device.nvidia_driver() is None
