"""What `--gpu` takes: known names in any spelling, amounts of memory, and one line for everything else."""

from __future__ import annotations

import pytest

from vllm_engine.errors import SettingsError
from vllm_engine.sizing.gpus import GPUS, Hardware, parse_hardware

KNOWN = {
    "H100": ("H100", 1),
    "h100:2": ("H100", 2),
    "NVIDIA H100 80GB:8": ("H100", 8),
    "H100 NVL": ("H100-94GB", 1),
    "a100": ("A100-80GB", 1),
    "A100_40GB": ("A100-40GB", 1),
    "GeForce RTX 4090:4": ("RTX4090", 4),
    "5090": ("RTX5090", 1),
    "Tesla T4": ("T4", 1),
}


def test_names() -> None:
    for given, (name, count) in KNOWN.items():
        found = parse_hardware(given)
        assert (found.gpu.name, found.count, found.is_cpu) == (name, count, False), given
    assert [parse_hardware(gpu.name).gpu for gpu in GPUS] == list(GPUS)
    assert all(
        gpu.memory_source and gpu.bandwidth_source and gpu.bandwidth_gb and gpu.capability for gpu in GPUS
    )


def test_memory() -> None:
    two = parse_hardware("24GiB:2")
    assert (two.gpu.memory_gib, two.count, two.gpu.bandwidth_gb, two.in_words) == (
        24,
        2,
        None,
        "2 x 24 GiB GPU",
    )
    cpu = parse_hardware("cpu:64.5 gib")
    assert (cpu.gpu.memory_gib, cpu.is_cpu, cpu.in_words) == (64.5, True, "CPU with 64.5 GiB")
    assert isinstance(cpu, Hardware)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("H10", "did you mean H100?"),
        ("banana", "known are B200, H200, H100,"),
        ("H100:0", "0 is no number of GPUs"),
        ("H100:two", "two is no number of GPUs"),
        ("H100:", "nothing is no number of GPUs"),
        ("H100:99999", "expected a whole number from 1 to 4096"),
        ("H100:²", "no number of GPUs"),
        ("0GiB", "that is no amount of memory"),
        ("cpu", "as cpu:64GiB"),
        ("cpu:many", "as cpu:64GiB"),
        ("cpu:64GiB:2", "a CPU is one device"),
        ("", "expected NAME"),
        ("a:b:c", "expected NAME"),
    ],
)
def test_refused_in_one_line(given: str, told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_hardware(given)
    assert told in str(refused.value) and "\n" not in str(refused.value)
    assert refused.value.exit_code == 2
