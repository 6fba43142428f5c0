"""Each check of the doctor: its status for good and bad facts, and the value that its remedy names."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.unit.models.test_model_config import QWEN
from tests.unit.plan.test_engine_plan import INSTALLATION
from vllm_engine.cli.console import print_checks
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.doctor import examine
from vllm_engine.doctor.check import Check, Status, any_failed, fail, ok, warn
from vllm_engine.doctor.machine_checks import (
    cache_check,
    device_check,
    driver_check,
    dtype_check,
    files_check,
    free_gpu_memory_check,
    frontend_check,
    port_check,
    shm_check,
    space_check,
)
from vllm_engine.doctor.model_checks import memory_check, template_check, token_check
from vllm_engine.errors import Problem
from vllm_engine.models.engine_scripts.hub_files import HubFile, WantedFiles
from vllm_engine.models.model_source import HubAccount, Model
from vllm_engine.plan.engine_plan import Choice, EnginePlan
from vllm_engine.plan.parallel.parallel_checks import check_ranks
from vllm_engine.plan.preflight import Preflight, check_device
from vllm_engine.sizing.room import Room
from vllm_engine.system.device import Device, Driver, Gpu
from vllm_engine.system.sizes import GIB

CPU = Device("cpu", "AMD EPYC", True, cores=2)
T4 = Gpu("Tesla T4", (7, 5), 16 * GIB, 15 * GIB)
H100 = Gpu("H100", (9, 0), 80 * GIB, 79 * GIB)
BUSY = replace(H100, free_bytes=40 * GIB)
DOCKER_SHM = 64 << 20
OK, WARN, FAIL = Status.OK, Status.WARN, Status.FAIL


def machine(*gpus: Gpu) -> Device:
    bfloat16 = bool(gpus) and all(gpu.capability >= (8, 0) for gpu in gpus)
    return Device("cuda", f"{len(gpus)} x {gpus[0].name}" if gpus else "no GPU", bfloat16, gpus, 16)


def driver(cuda: tuple[int, int], needed: str | None) -> Check:
    return driver_check(machine(H100), Driver("570.86.15", cuda), needed)


def dtype(device: Device, **settings: Any) -> Check:
    return dtype_check(Settings(**settings), device, check_device(Settings(**settings), device))


def space(free: float, missing: float | None) -> Check:
    return space_check(Path("/cache"), int(free), None if missing is None else int(missing))


TWO = machine(H100, H100)
FOUR_ASKED = [*check_ranks(Settings(TENSOR_PARALLEL=4), TWO)]
ALONE = [Problem("NODE_RANK", "1", "set NODES")]
TAKEN = [Problem("PORT", "8000", "already in use; stop what listens there")]
READ_ONLY = [Problem("CACHE_DIR", "/cache", "cannot be written by uid 2000; make it writable")]
GIVEN = Settings(HF_TOKEN="hf_secret")
LARGE = Settings(MAX_CONNECTIONS=100_000, MAX_IN_FLIGHT=4096)
CASES: list[tuple[Check, Status, str]] = [
    (device_check(CPU, ()), OK, "AMD EPYC, 2 cores"),
    (device_check(machine(H100), ()), OK, "1 x H100, 80.0 GiB each"),
    (device_check(machine(), ()), FAIL, "--gpus all"),
    (device_check(TWO, FOUR_ASKED), FAIL, 'TENSOR_PARALLEL="4": 2 GPU(s) visible'),
    (device_check(TWO, ALONE), FAIL, 'NODE_RANK="1": set NODES'),
    (driver((13, 0), "13.0.96"), OK, "up to 13.0"),
    (driver((13, 0), "12.9.79"), OK, "up to 13.0"),
    (driver((12, 8), None), OK, "570.86.15, up to CUDA 12.8"),
    (driver((12, 8), "12.9.79"), WARN, "newer driver"),
    (driver((12, 8), "13.0.96"), FAIL, "install a driver for CUDA 13, or a vLLM build for CUDA 12"),
    (driver_check(CPU, None, None), OK, "not needed"),
    (driver_check(machine(), None, "12.9"), FAIL, "NVIDIA Container Toolkit"),
    (dtype(machine(T4)), OK, "auto: float16"),
    (dtype(machine(T4), DTYPE="float16"), OK, "float16"),
    (dtype(machine(T4), DTYPE="float32"), WARN, "set DTYPE=auto"),
    (dtype(machine(T4), DTYPE="bfloat16"), FAIL, "set DTYPE=float16 or auto"),
    (frontend_check("auto", Choice("both", "auto: on CPU")), OK, "both; auto: on CPU"),
    (frontend_check("both", Choice("both", "environment")), OK, "both"),
    (frontend_check("both", Choice("python", "both: a flag")), WARN, "python alone; both: a flag; change"),
    (frontend_check("both", Choice("python", "both: no binary"), "run it"), WARN, "no binary; run it, or set"),
    (free_gpu_memory_check([H100], 0.9), OK, "99% free, 90% needed"),
    (free_gpu_memory_check([], 0.9), OK, "no GPU"),
    (free_gpu_memory_check([replace(H100, free_bytes=None)], 0.9), OK, "unknown"),
    (free_gpu_memory_check([H100, BUSY], 0.9), FAIL, "set GPU_MEMORY_UTILIZATION=0.49"),
    (shm_check(DOCKER_SHM, 1), OK, "64 MiB"),
    (shm_check(8 * GIB, 2), OK, "8.0 GiB"),
    (shm_check(None, 1), WARN, "--shm-size=8g"),
    (shm_check(DOCKER_SHM, 2), FAIL, "docker run --shm-size=8g"),
    (files_check(1 << 20, Settings()), OK, "17568 needed"),
    (files_check(1024, Settings()), WARN, "nofile=65536), or set MAX_CONNECTIONS=288"),
    (files_check(20_000, LARGE), WARN, "MAX_CONNECTIONS=100000 needs 108352: at most 11648 client connections; "),
    (files_check(20_000, LARGE), WARN, "nofile=108352), or set MAX_CONNECTIONS=11648"),
    (port_check(Settings(), ()), OK, "0.0.0.0:8000"),
    (port_check(Settings(), TAKEN), FAIL, 'PORT="8000": already in use; stop what listens there'),
    (cache_check(Path("/cache"), ()), OK, "/cache"),
    (cache_check(Path("/cache"), READ_ONLY), FAIL, "cannot be written by uid 2000; make it writable"),
    (space(100e9, 6e9), OK, "6.0 GB to download"),
    (space(5e9, 0), OK, "5.0 GB free"),
    (space(7e9, 6e9), WARN, "free 1.0 GB there"),
    (space(5e9, 6e9), FAIL, "free 3.0 GB there"),
    (space(5e9, None), WARN, "make sure"),
    (token_check(Settings(), None), OK, "not set"),
    (token_check(GIVEN, HubAccount("ann", False, None)), OK, "of ann"),
    (token_check(GIVEN, None), OK, "not checked"),
    (token_check(GIVEN, HubAccount(None, True, None)), FAIL, "read access"),
    (template_check(True), OK, ""),
    (template_check(None), OK, "unknown"),
    (template_check(False), WARN, "set CHAT_TEMPLATE"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "status", "text"), CASES)
def test_check(check: Check, status: Status, text: str) -> None:
    assert (check.status, text in str(check)) == (status, True), str(check)
    assert (check.remedy is None) == (status is OK)
    assert "hf_secret" not in str(check)


@pytest.mark.parametrize("files", [64, 256, 1024])
@pytest.mark.parametrize(
    "settings", [{}, {"MAX_CONNECTIONS": 513}, {"HEALTH_PORT": 8001, "MAX_IN_FLIGHT": 4096}]
)
def test_either_remedy_of_the_files_check_works(files: int, settings: dict[str, Any]) -> None:
    """As many files as it says are needed are enough, and one fewer is not; so is the value that it names."""
    check = files_check(files, Settings(**settings))
    found = re.search(r"needs (\d+)", check.sentence)
    assert found, check
    needed, fits = int(found[1]), int((check.remedy or "").rpartition("=")[2])
    tried = [
        files_check(needed, Settings(**settings)),
        files_check(needed - 1, Settings(**settings)),
        files_check(files, Settings(**settings | {"MAX_CONNECTIONS": fits})),
    ]
    assert [it.status for it in tried] == [OK, WARN, OK]


ROOM = Room(72 * GIB, 6 * GIB, QWEN, 8192)
MEMORY: list[tuple[dict[str, Any], Status, str]] = [
    ({}, OK, "concurrent request(s) of 8192 tokens"),
    ({"max_model_len": None}, OK, "tokens"),
    ({"config": {}}, OK, "for the KV cache"),
    ({"weight_bytes": None}, WARN, "unknown"),
    ({"weight_bytes": 80 * GIB}, FAIL, "set MODEL_ID to a smaller or quantized model"),
    ({"weight_bytes": 80 * GIB, "most_devices": 4}, FAIL, "set TENSOR_PARALLEL=2"),
    ({"weight_bytes": 80 * GIB, "tensor_parallel": 2, "most_devices": 2}, OK, "concurrent"),
    ({"budget_bytes": 8 * GIB, "max_model_len": 32768}, FAIL, "set MAX_MODEL_LEN=14"),
    ({"budget_bytes": 7.501 * GIB}, FAIL, "set MAX_MODEL_LEN=29"),
    ({"budget_bytes": 8 * GIB, "kv_bytes": 4 * GIB}, FAIL, f"KV_CACHE_MEMORY_BYTES={GIB // 2}"),
    ({"kv_bytes": GIB // 8}, FAIL, "set MAX_MODEL_LEN=3584"),
    ({"kv_bytes": GIB // 8, "kv_value_bytes": 1}, FAIL, "set MAX_MODEL_LEN=7168"),
]


def test_memory() -> None:
    """Weights and one longest request must fit; the length, GPUs or bytes that would do are named."""
    for change, status, text in MEMORY:
        check = memory_check(replace(ROOM, **change))
        assert (check.status, text in str(check)) == (status, True), str(check)
    short = replace(ROOM, budget_bytes=8 * GIB, max_model_len=32768)
    remedy = memory_check(short).remedy or ""
    assert memory_check(replace(short, max_model_len=int(remedy.rpartition("=")[2]))).status is OK


CACHE = "--kv-cache-memory-bytes"
LONG = QWEN | {"max_position_embeddings": 262_144}


@pytest.mark.parametrize(
    ("device", "flags", "status", "text"),
    [
        (machine(H100), [], OK, "64.5 GiB for the KV cache"),
        (machine(H100), [CACHE, "71G"], OK, "71.0 GiB for the KV cache: about 252 concurrent"),
        (machine(H100), ["--kv_cache_memory_bytes=100G"], FAIL, f"set KV_CACHE_MEMORY_BYTES={int(71.5 * GIB)} or less"),
        (machine(replace(H100, free_bytes=None)), [CACHE, "100G"], FAIL, f"KV_CACHE_MEMORY_BYTES={int(72.5 * GIB)}"),
        (machine(H100, BUSY), [CACHE, "71G"], OK, "71.0 GiB"),
        (machine(BUSY), [CACHE, "71G"], FAIL, "40.0 GiB available"),
        (machine(H100), [CACHE, "128M"], FAIL, "needs 288 MiB; set MAX_MODEL_LEN=3584"),
        (CPU, [CACHE, "128M"], FAIL, "set MAX_MODEL_LEN=3584"),
    ],
)  # fmt: skip
def test_memory_with_a_cache_of_so_many_bytes(
    device: Device, flags: list[str], status: Status, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must fit beside the weights into what is free on the GPU, and hold one request, as vLLM will find."""
    monkeypatch.setattr(examine, "free_memory_bytes", lambda: 16 * GIB)
    settings, one = load_settings(Environment({"MODEL_ID": "m"}, {})), Choice("1", "default")
    found = Preflight(settings, Environment({}, {}), INSTALLATION, device, tuple(flags))
    chosen = EnginePlan(
        Model("m", None, LONG), Choice("bfloat16", ""), one, Choice("8192", ""), one, None, None
    )
    check = memory_check(examine.room_of(found, chosen, WantedFiles((HubFile("w", 6 * GIB, ""),))))
    assert (check.status, text in str(check)) == (status, True), str(check)


def test_print_checks(capsys: pytest.CaptureFixture[str]) -> None:
    """A table on a terminal, a line per check in a pipe, or JSON; brackets are no markup."""
    checks = [ok("a", "fine"), warn("b", "hm [x]", "do"), fail("c", "bad", "fix")]
    out = io.StringIO()
    print_checks(checks, Console(file=out, width=20))
    lines = ["ok    a           fine", "warn  b           hm [x]; do", "fail  c           bad; fix"]
    assert out.getvalue().splitlines() == lines
    print_checks(checks, Console(file=out, force_terminal=True, width=80))
    assert "what to do" in out.getvalue() and out.getvalue().count("hm [x]") == 2
    print_checks(checks, Console(), as_json=True)
    last = {"id": "c", "status": "fail", "sentence": "bad", "remedy": "fix"}
    assert json.loads(capsys.readouterr().out)[2] == last
    assert (any_failed(checks), any_failed(checks[:2])) == (True, False)
