"""Each check of the doctor: what it says of good and bad facts, and the value its remedy names."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.unit.models.test_model_config import QWEN
from vllm_engine.config.settings import Settings
from vllm_engine.doctor.check import GIB, Check, Status, any_failed, fail, ok, warn
from vllm_engine.doctor.check_table import show
from vllm_engine.doctor.machine_checks import (
    device_check,
    driver_check,
    dtype_check,
    files_check,
    free_gpu_memory_check,
    port_check,
    shm_check,
)
from vllm_engine.doctor.model_checks import Room, memory_check, template_check, token_check
from vllm_engine.doctor.storage_checks import cache_check, space_check
from vllm_engine.errors import Problem
from vllm_engine.models.model_source import HubAccount
from vllm_engine.plan.engine_plan import check_device
from vllm_engine.system.device import Device, Driver, Gpu

CPU = Device("cpu", "AMD EPYC", True, cores=2)
T4 = Gpu("Tesla T4", (7, 5), 16 * GIB, 15 * GIB)
H100 = Gpu("H100", (9, 0), 80 * GIB, 79 * GIB)


def machine(*gpus: Gpu) -> Device:
    """Return a CUDA device of these GPUs."""
    bfloat16 = bool(gpus) and all(gpu.capability >= (8, 0) for gpu in gpus)
    return Device("cuda", f"{len(gpus)} x {gpus[0].name}" if gpus else "no GPU", bfloat16, gpus, 16)


def said(check: Check) -> tuple[Status, str]:
    """Return status and whole sentence."""
    return check.status, str(check)


def test_device() -> None:
    """A GPU build needs a GPU, and as many as asked for; the CPU build needs none."""
    assert said(device_check(CPU, ())) == (Status.OK, "AMD EPYC, 2 cores")
    assert said(device_check(machine(H100), ())) == (Status.OK, "1 x H100, 80.0 GiB each")
    none = device_check(machine(), ())
    assert (none.status, "--gpus all" in str(none)) == (Status.FAIL, True)
    settings = Settings(TENSOR_PARALLEL=4)
    two = machine(H100, H100)
    few = device_check(two, check_device(settings, two))
    assert few.status is Status.FAIL
    assert str(few).endswith("TENSOR_PARALLEL=4; 2 GPU(s) visible; valid values: 1, 2 or auto")


@pytest.mark.parametrize(
    ("cuda", "needed", "status"),
    [
        ((13, 0), "13.0.96", Status.OK),
        ((13, 0), "12.9.79", Status.OK),
        ((12, 8), "12.9.79", Status.WARN),
        ((12, 8), "13.0.96", Status.FAIL),
        ((12, 8), None, Status.OK),
    ],
)
def test_driver(cuda: tuple[int, int], needed: str | None, status: Status) -> None:
    """A driver runs its own major version of CUDA and older ones; a newer minor one is doubtful."""
    check = driver_check(machine(H100), Driver("570.86.15", cuda), needed)
    assert check.status is status
    if status is Status.FAIL:
        assert "CUDA up to 12.8, this vLLM for CUDA 13.0" in check.sentence
        assert check.remedy == "install a driver for CUDA 13, or a vLLM for CUDA 12"


def test_no_driver() -> None:
    """No driver is a failure on a GPU build, and nothing on CPU."""
    assert driver_check(CPU, None, None).status is Status.OK
    assert driver_check(machine(), None, "12.9").status is Status.FAIL


def test_dtype() -> None:
    """bfloat16 needs an Ampere GPU; float32 doubles memory; auto always works."""
    t4 = machine(T4)
    for dtype, status in (("auto", Status.OK), ("float16", Status.OK), ("float32", Status.WARN)):
        assert dtype_check(Settings(DTYPE=dtype), t4, ()).status is status
    settings = Settings(DTYPE="bfloat16")
    bad = dtype_check(settings, t4, check_device(settings, t4))
    assert (bad.status, "set DTYPE=float16 or auto" in str(bad)) == (Status.FAIL, True)
    assert dtype_check(Settings(DTYPE="auto"), t4, ()).sentence == "auto: float16"


def test_free_gpu_memory() -> None:
    """Less free memory than vLLM will take is a failure, and the share that would work is named."""
    assert free_gpu_memory_check([H100], 0.9).status is Status.OK
    assert free_gpu_memory_check([], 0.9).status is Status.OK
    busy = free_gpu_memory_check([H100, replace(H100, free_bytes=40 * GIB)], 0.9)
    assert (busy.status, busy.remedy) == (
        Status.FAIL,
        "end what else runs there, or set GPU_MEMORY_UTILIZATION=0.49",
    )


def test_shm() -> None:
    """Docker's 64 MiB are enough for one GPU and too little for two."""
    docker = 64 << 20
    assert shm_check(docker, 1).status is Status.OK
    assert shm_check(8 * GIB, 2).status is Status.OK
    assert shm_check(None, 1).status is Status.WARN
    few = shm_check(docker, 2)
    assert (few.status, "64 MiB" in few.sentence, few.remedy) == (
        Status.FAIL,
        True,
        "docker run --shm-size=8g, or --ipc=host",
    )


def test_files() -> None:
    """Connections need open files; the limit and the number that fits are named."""
    settings = Settings()
    assert files_check(1 << 20, settings).status is Status.OK
    few = files_check(1024, settings)
    assert few.status is Status.WARN
    assert "ulimit -n 17152" in str(few)
    assert str(few).endswith("or set MAX_CONNECTIONS=256")
    assert "MAX_CONNECTIONS=" not in (files_check(256, settings).remedy or "")


def test_port() -> None:
    """A port in use is a failure with the setting's own remedy."""
    assert port_check(Settings(), ()).status is Status.OK
    taken = port_check(Settings(), [Problem("PORT", "8000", "already in use; stop what listens there")])
    assert said(taken) == (Status.FAIL, "PORT=8000; already in use; stop what listens there")


def test_cache() -> None:
    """A cache that cannot be written is a failure."""
    assert cache_check(Path("/cache"), ()).status is Status.OK
    bad = cache_check(Path("/cache"), [Problem("CACHE_DIR", "/cache", "cannot be written by uid 2000")])
    assert said(bad) == (Status.FAIL, "CACHE_DIR=/cache; cannot be written by uid 2000")


@pytest.mark.parametrize(
    ("free", "missing", "status", "remedy"),
    [
        (100e9, 6e9, Status.OK, None),
        (5e9, 0, Status.OK, None),
        (7e9, 6e9, Status.WARN, "free 1.0 GB there"),
        (5e9, 6e9, Status.FAIL, "free 3.0 GB there"),
        (5e9, None, Status.WARN, "make sure"),
    ],
)
def test_space(free: float, missing: float | None, status: Status, remedy: str | None) -> None:
    """The rest of the model must fit, with room for compile caches; what to free is named."""
    check = space_check(Path("/cache"), int(free), None if missing is None else int(missing))
    assert check.status is status
    assert (check.remedy or "").startswith(remedy or "")


def test_token() -> None:
    """A token that the hub refuses is a failure; none is fine."""
    given = Settings(HF_TOKEN="hf_secret")
    assert token_check(Settings(), None).status is Status.OK
    assert token_check(given, HubAccount("ann", False, None)).sentence == "of ann"
    assert token_check(given, None).status is Status.OK
    refused = token_check(given, HubAccount(None, True, None))
    assert (refused.status, "hf_secret" in str(refused)) == (Status.FAIL, False)


ROOM = Room(72 * GIB, 6 * GIB, QWEN, 8192)


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({}, Status.OK, "request(s) of 8192 tokens at once"),
        ({"max_model_len": None}, Status.OK, "tokens"),
        ({"config": {}}, Status.OK, "for the KV cache"),
        ({"weight_bytes": None}, Status.WARN, "not known"),
        ({"weight_bytes": 80 * GIB}, Status.FAIL, "smaller or quantised model as MODEL_ID"),
        ({"weight_bytes": 80 * GIB, "most_devices": 4}, Status.FAIL, "set TENSOR_PARALLEL=2"),
        ({"weight_bytes": 80 * GIB, "devices": 2, "most_devices": 2}, Status.OK, "at once"),
        ({"budget_bytes": 8 * GIB, "max_model_len": 32768}, Status.FAIL, "set MAX_MODEL_LEN=14"),
        ({"budget_bytes": 7.501 * GIB}, Status.FAIL, "set MAX_MODEL_LEN=29"),
        ({"budget_bytes": 8 * GIB, "kv_bytes": 4 * GIB}, Status.FAIL, f"KV_CACHE_MEMORY_BYTES={GIB // 2}"),
        ({"kv_bytes": GIB // 8}, Status.FAIL, "set MAX_MODEL_LEN=3584"),
        ({"kv_bytes": GIB // 8, "kv_value_bytes": 1}, Status.FAIL, "set MAX_MODEL_LEN=7168"),
    ],
)
def test_memory(change: dict[str, Any], status: Status, text: str) -> None:
    """Weights and one longest request must fit; the length, GPUs or bytes that would do are named."""
    check = memory_check(replace(ROOM, **change))
    assert check.status is status, str(check)
    assert text in str(check)


def test_named_length_fits() -> None:
    """Following the remedy mends the check."""
    short = replace(ROOM, budget_bytes=8 * GIB, max_model_len=32768)
    remedy = memory_check(short).remedy or ""
    assert memory_check(replace(short, max_model_len=int(remedy.rpartition("=")[2]))).status is Status.OK


def test_template() -> None:
    """No template is doubtful only: completions work."""
    assert [template_check(known).status for known in (True, None, False)] == [
        Status.OK,
        Status.OK,
        Status.WARN,
    ]
    assert "CHAT_TEMPLATE" in str(template_check(False))


CHECKS = [ok("a", "fine"), warn("b", "hm [x]", "do"), fail("c", "bad", "mend")]


def test_lines() -> None:
    """Piped, each check is one plain line."""
    out = io.StringIO()
    show(CHECKS, Console(file=out, width=20))
    assert out.getvalue().splitlines() == [
        "ok    a           fine",
        "warn  b           hm [x]; do",
        "fail  c           bad; mend",
    ]


def test_table() -> None:
    """On a terminal they are a table; brackets are no markup."""
    out = io.StringIO()
    show(CHECKS, Console(file=out, force_terminal=True, width=80))
    assert "what to do" in out.getvalue()
    assert "hm [x]" in out.getvalue()


def test_json() -> None:
    """As JSON each has id, status, sentence and remedy."""
    assert json.loads(json.dumps(CHECKS[2].as_json())) == {
        "id": "c",
        "status": "fail",
        "sentence": "bad",
        "remedy": "mend",
    }
    assert (any_failed(CHECKS), any_failed(CHECKS[:2])) == (True, False)
