"""Known GPUs as data, and what `--gpu` names: `H100:2`, `24GiB:2` or `cpu:64GiB`.

Memory is what CUDA gives a program (`torch.cuda.mem_get_info`, of which vLLM takes its share), not what the
vendor prints on the box: the total in vLLM's and PyTorch's own log lines and out-of-memory errors, the least
where reports differ. Bandwidth is the vendor's figure; of H100 and A100 it is the SXM module's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vllm_engine.config.spelling import did_you_mean
from vllm_engine.errors import OptionProblem, SettingsError
from vllm_engine.system.sizes import GIB, gib

_OUR_LOG = "docs/measured/gpu.md"
_REPORTS = "public reports"
_VLLM = "https://github.com/vllm-project/vllm/issues/"
_VACE = "https://github.com/ali-vilab/VACE/issues/56"
_NVIDIA = "https://www.nvidia.com/en-us/"
_SHAPE = re.compile(r"(?:(?P<cpu>cpu):)?(?P<name>[^:]+?)(?::(?P<count>[^:]*))?", re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*GiB", re.IGNORECASE)
_MOST_GPUS = 4096


@dataclass(frozen=True)
class GpuModel:
    """One kind of GPU.

    Attributes:
        memory_gib: what CUDA gives a program.
        bandwidth_gb: memory bandwidth in 10^9 bytes a second, as the vendor has it; None where not known.
        capability: CUDA compute capability; None where not known.
        memory_source: where `memory_gib` comes from.
        bandwidth_source: where `bandwidth_gb` comes from.
    """

    name: str
    memory_gib: float
    bandwidth_gb: int | None = None
    capability: tuple[int, int] | None = None
    memory_source: str = ""
    bandwidth_source: str = ""

    @property
    def memory_bytes(self) -> float:
        """What CUDA gives a program."""
        return self.memory_gib * GIB


GPUS = (
    GpuModel("B200", 178.35, 8000, (10, 0), _REPORTS, _NVIDIA + "data-center/dgx-b200/"),
    GpuModel("H200", 139.80, 4800, (9, 0), _REPORTS, _NVIDIA + "data-center/h200/"),
    GpuModel("H100", 79.18, 3350, (9, 0), _OUR_LOG, _NVIDIA + "data-center/h100/"),
    GpuModel("H100-94GB", 93.00, 3900, (9, 0), _VACE, _NVIDIA + "data-center/h100/"),
    GpuModel("A100-80GB", 79.15, 2039, (8, 0), _VLLM + "4408", _NVIDIA + "data-center/a100/"),
    GpuModel("A100-40GB", 39.38, 1555, (8, 0), _REPORTS, _NVIDIA + "data-center/a100/"),
    GpuModel("L40S", 44.39, 864, (8, 9), _REPORTS, _NVIDIA + "data-center/l40s/"),
    GpuModel("L4", 22.03, 300, (8, 9), _REPORTS, _NVIDIA + "data-center/l4/"),
    GpuModel(
        "A10",
        22.06,
        600,
        (8, 6),
        _REPORTS,
        _NVIDIA + "data-center/products/a10-gpu/",
    ),
    GpuModel(
        "T4",
        14.56,
        300,
        (7, 5),
        "https://github.com/Zheng-Chong/CatVTON/issues/133",
        _NVIDIA + "data-center/tesla-t4/",
    ),
    GpuModel(
        "RTX5090",
        31.34,
        1792,
        (12, 0),
        _REPORTS,
        _NVIDIA + "geforce/graphics-cards/50-series/rtx-5090/",
    ),
    GpuModel(
        "RTX4090",
        23.52,
        1008,
        (8, 9),
        _REPORTS,
        _NVIDIA + "geforce/graphics-cards/40-series/rtx-4090/",
    ),
    GpuModel(
        "RTX3090",
        23.56,
        936,
        (8, 6),
        "https://github.com/wtdcode/vllm-backport/issues/34",
        _NVIDIA + "geforce/graphics-cards/30-series/rtx-3090-3090ti/",
    ),
)

_OTHER_NAMES = {
    **{"h10080gb": "H100", "h100sxm": "H100", "h100nvl": "H100-94GB", "h10094": "H100-94GB"},
    **{"a100": "A100-80GB", "a10080": "A100-80GB", "a10040": "A100-40GB"},
    **{"teslat4": "T4", "3090": "RTX3090", "4090": "RTX4090", "5090": "RTX5090"},
}


@dataclass(frozen=True)
class Hardware:
    """What one replica runs on: so many GPUs of one kind, or the main memory of a machine.

    `is_cpu`: the memory is main memory, and `count` is 1.
    """

    gpu: GpuModel
    count: int = 1
    is_cpu: bool = False

    @property
    def in_words(self) -> str:
        """How people say it."""
        if self.is_cpu:
            return f"CPU with {gib(self.gpu.memory_bytes)}"
        return f"{self.count} x {self.gpu.name}"


def parse_hardware(given: str) -> Hardware:
    """Read a value of `--gpu`.

    Raises:
        SettingsError: it names no GPU, size or count that is known.
    """
    shape = _SHAPE.fullmatch(given.strip())
    if shape is None:
        raise _refused(given, "expected NAME, NAME:COUNT, 24GiB:COUNT or cpu:64GiB")
    is_cpu, name = shape["cpu"] is not None, shape["name"].strip()
    count = _count(given, shape["count"])
    if size := _SIZE.fullmatch(name):
        memory = float(size[1])
        if not 0 < memory <= 1 << 20:
            raise _refused(
                given, "that is no amount of memory; name the GiB that CUDA or the machine reports"
            )
        if is_cpu and count != 1:
            raise _refused(given, "a CPU is one device; name its memory, as cpu:64GiB")
        return Hardware(GpuModel("CPU" if is_cpu else f"{memory:g} GiB GPU", memory), count, is_cpu)
    if is_cpu or name.lower() == "cpu":
        raise _refused(given, "a CPU needs the size of its memory, as cpu:64GiB")
    return Hardware(_known(given, name), count)


def _count(given: str, count: str | None) -> int:
    if count is None:
        return 1
    if not count.isascii() or not count.isdigit() or not 1 <= int(count) <= _MOST_GPUS:
        raise _refused(
            given,
            f"{count or 'nothing'} is no number of GPUs; expected a whole number from 1 to {_MOST_GPUS}",
        )
    return int(count)


def _known(given: str, name: str) -> GpuModel:
    plain = _plain(name)
    by_name = {_plain(gpu.name): gpu for gpu in GPUS}
    found = by_name.get(plain) or by_name.get(_plain(_OTHER_NAMES.get(plain, "")))
    if found is not None:
        return found
    near = did_you_mean(plain.upper(), [gpu.name for gpu in GPUS])
    known = ", ".join(gpu.name for gpu in GPUS)
    raise _refused(
        given,
        f"no such GPU{f', {near}' if near else ''}; known are {known}; "
        "for another give its memory, as 24GiB:2",
    )


def _plain(name: str) -> str:
    """Return a name without what people write differently: case, blanks, dashes, the vendor."""
    return re.sub(r"nvidia|geforce|[\s_-]", "", name.lower())


def _refused(given: str, why: str) -> SettingsError:
    return SettingsError([OptionProblem(f"--gpu {given}", given, why)])
