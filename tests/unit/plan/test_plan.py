"""The plan: what auto and the defaults mean for a device and a model."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.models.model_source import Model
from vllm_engine.plan.engine_plan import EnginePlan, check_device, plan_engine
from vllm_engine.system.device import Device, Gpu

GIB = 1 << 30
CPU = Device("cpu", "a CPU", supports_bfloat16=True, cores=2)
OLD_CPU = Device("cpu", "an old CPU", supports_bfloat16=False, cores=2)
LLAMA = {
    "max_position_embeddings": 4096,
    "num_attention_heads": 12,
    "num_hidden_layers": 10,
    "hidden_size": 1200,
}


def gpus(count: int, *, bfloat16: bool = True, cores: int = 16) -> Device:
    """Return a machine with `count` GPUs."""
    gpu = Gpu("H100", (9, 0) if bfloat16 else (7, 5), 80 * GIB)
    return Device("cuda", f"{count} x H100", bfloat16, gpus=(gpu,) * count, cores=cores)


def plan(
    device: Device = CPU,
    config: dict[str, Any] = LLAMA,
    free: int = 100 * GIB,
    flags: frozenset[str] = frozenset(),
    **variables: str,
) -> EnginePlan:
    """Settle a plan for the given variables."""
    environment = Environment(variables, {})
    known = {key: value for key, value in variables.items() if not key.startswith("VLLM_")}
    return plan_engine(
        load_settings(Environment(known, {})),
        source=environment.source,
        environ=variables,
        device=device,
        model=Model("m", None, config),
        free_memory_bytes=free,
        flags=flags,
    )


@pytest.mark.parametrize(
    ("device", "variables", "dtype"),
    [
        (CPU, {}, "bfloat16"),
        (OLD_CPU, {}, "float16"),
        (gpus(1), {}, "bfloat16"),
        (gpus(1, bfloat16=False), {}, "float16"),
        (gpus(1, bfloat16=False), {"DTYPE": "float32"}, "float32"),
    ],
)
def test_dtype(device: Device, variables: dict[str, Any], dtype: str) -> None:
    """auto is bfloat16 where the device supports it, else float16."""
    assert plan(device, **variables).dtype.value == dtype


def test_default_length_is_cut_to_the_model() -> None:
    """A default that the model cannot hold is lowered, and said."""
    choice = plan().max_model_len
    assert choice.value == "4096"
    assert "MAX_MODEL_LEN=4096: the model's maximum, less than the default of 8192" in plan().notes


def test_length_above_the_model_is_refused() -> None:
    """A length that the user chose is never changed: it is an error that says the maximum."""
    with pytest.raises(SettingsError, match=r'MAX_MODEL_LEN="8192": the model holds at most 4096 tokens'):
        plan(MAX_MODEL_LEN="8192")


@pytest.mark.parametrize(
    ("variables", "value", "source"),
    [
        ({"MAX_MODEL_LEN": "100"}, "100", "environment"),
        ({"MAX_MODEL_LEN": "auto"}, "auto", "environment"),
        ({"MAX_MODEL_LEN": "9000", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}, "9000", "environment"),
    ],
)
def test_length_as_given(variables: dict[str, Any], value: str, source: str) -> None:
    """What fits, or what the user insists on, is passed on."""
    choice = plan(**variables).max_model_len
    assert (choice.value, choice.source) == (value, source)


def test_unknown_model_keeps_the_default() -> None:
    """Nothing is claimed of a model whose configuration says nothing."""
    assert plan(config={}).max_model_len.value == "8192"


@pytest.mark.parametrize(("count", "parallel"), [(1, "1"), (2, "2"), (5, "4"), (8, "6")])
def test_tensor_parallel_auto(count: int, parallel: str) -> None:
    """auto is the most GPUs that divide the 12 heads."""
    assert plan(gpus(count), TENSOR_PARALLEL="auto").tensor_parallel.value == parallel


def test_tensor_parallel_must_divide() -> None:
    """A number that does not divide the heads is an error that lists those that do."""
    with pytest.raises(
        SettingsError, match=r'TENSOR_PARALLEL="5".*12 attention heads.*1, 2, 3, 4, 6 or auto'
    ):
        plan(gpus(8), TENSOR_PARALLEL="5")


def test_both_model_problems_at_once() -> None:
    """Problems with the model are reported together."""
    with pytest.raises(SettingsError) as caught:
        plan(gpus(8), TENSOR_PARALLEL="5", MAX_MODEL_LEN="5000")
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("device", "variables", "keys"),
    [
        (CPU, {"TENSOR_PARALLEL": "3"}, ["TENSOR_PARALLEL"]),
        (gpus(2), {"TENSOR_PARALLEL": "3"}, ["TENSOR_PARALLEL"]),
        (gpus(2), {"TENSOR_PARALLEL": "2"}, []),
        (gpus(1, bfloat16=False), {"DTYPE": "bfloat16"}, ["DTYPE"]),
        (OLD_CPU, {"DTYPE": "bfloat16"}, []),
        (CPU, {}, []),
    ],
)
def test_check_device(device: Device, variables: dict[str, Any], keys: list[str]) -> None:
    """What the device lacks is known before the model is looked at."""
    found = check_device(load_settings(Environment(variables, {})), device)
    assert [problem.key for problem in found] == keys


@pytest.mark.parametrize(
    ("device", "variables", "count"),
    [
        (CPU, {}, "1"),
        (gpus(1, cores=16), {}, "1"),
        (gpus(1, cores=32), {}, "3"),
        (gpus(8, cores=192), {}, "4"),
        (gpus(1, cores=32), {"ENGINE_FRONTEND": "rust"}, "1"),
        (CPU, {"API_SERVER_COUNT": "2"}, "2"),
    ],
)
def test_api_servers(device: Device, variables: dict[str, Any], count: str) -> None:
    """auto gives API servers cores that nothing else needs."""
    assert plan(device, **variables).api_server_count.value == count


def test_cpu_kv_cache() -> None:
    """On CPU the KV cache has a size of its own: several prompts, never more than a quarter of RAM."""
    per_token = 2 * 2 * 10 * 12 * 100
    roomy, tight = plan().kv_cache_bytes, plan(free=2 * GIB).kv_cache_bytes
    assert roomy is not None
    assert tight is not None
    assert int(roomy.value) == max(GIB, 8 * 4096 * per_token)
    assert int(tight.value) == GIB // 2


@pytest.mark.parametrize(
    ("variables", "flags"),
    [
        ({"GPU_MEMORY_UTILIZATION": "0.5"}, frozenset[str]()),
        ({"VLLM_CPU_KVCACHE_SPACE": "2"}, frozenset[str]()),
        ({}, frozenset({"kv-cache-memory-bytes"})),
    ],
)
def test_cpu_kv_cache_of_the_users(variables: dict[str, Any], flags: frozenset[str]) -> None:
    """Ours stands back where the user has said how much memory to take."""
    assert plan(flags=flags, **variables).kv_cache_bytes is None


def test_gpu_has_no_cpu_defaults() -> None:
    """On GPUs vLLM sizes its cache and compiles."""
    settled = plan(gpus(1))
    assert (settled.kv_cache_bytes, settled.enforce_eager) == (None, None)


def test_eager_on_cpu_unless_said() -> None:
    """CPU runs eager, unless the user has decided."""
    assert plan().enforce_eager is not None
    assert plan(flags=frozenset({"enforce-eager"})).enforce_eager is None
