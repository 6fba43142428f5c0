"""What a replica holds, how many a load needs, what would make a model fit, what it costs, what is to be set."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import yaml

from tests.support.doc_blocks import ROOT
from tests.unit.models.test_model_config import QWEN
from tests.unit.sizing.test_kv_cache import LATENT, MIXED
from vllm_engine.config.settings import Settings
from vllm_engine.errors import SettingsError
from vllm_engine.sizing.cost import bandwidth_bound, cost_per_million
from vllm_engine.sizing.gpus import parse_hardware
from vllm_engine.sizing.replica import Load, Options, Replica, SizedModel, size_replica
from vllm_engine.sizing.report import Money, as_json, describe
from vllm_engine.sizing.suggestion import docker_command, env_file, suggested_settings, values_file
from vllm_engine.sizing.ways_out import ways_out
from vllm_engine.system.sizes import GIB

WEIGHTS = 6_171_877_376
"""Of Qwen2.5-3B-Instruct."""
PAGE = (ROOT / "docs/measured/plan.md").read_text()


def size(
    gpu: str,
    load: Load | None = None,
    change: dict[str, Any] | None = None,
    weights: float = WEIGHTS,
    **options: Any,
) -> Replica:
    model = SizedModel("org/model", QWEN | (change or {}), int(weights))
    return size_replica(model, parse_hardware(gpu), load or Load(8192), Options(**options))


Case = tuple[str, dict[str, Any], dict[str, Any]]


def test_how_a_model_is_split() -> None:
    """Tensor parallel takes as many GPUs as the heads allow, pipeline parallel the others; each can be given."""
    cases: tuple[tuple[Case, tuple[int, int]], ...] = (
        (("H100", {}, {}), (1, 1)),
        (("H100:8", {}, {}), (8, 1)),
        (("H100:6", {}, {}), (2, 3)),
        (("H100:6", {"num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 64}, {}), (2, 3)),
        (("H100:8", {}, {"pipeline_parallel": 4}), (2, 4)),
        (("H100:8", {}, {"tensor_parallel": 2, "data_parallel": 2}), (2, 2)),
        (("H100:8", {}, {"data_parallel": 8}), (1, 1)),
        (("cpu:64GiB", {}, {}), (1, 1)),
    )
    for (gpu, change, options), expected in cases:
        room = size(gpu, change=change, **options).room
        assert (room.tensor_parallel, room.pipeline_parallel) == expected, (gpu, options)


def test_more_gpus_than_kv_heads_do_not_make_the_cache_of_each_smaller() -> None:
    two, four, eight = (size(f"H100:{count}") for count in (2, 4, 8))
    assert [r.cache.row_bytes if r.cache else 0 for r in (two, four, eight)] == [512, 512, 512]
    held = [r.concurrency(8192) or 0 for r in (two, four, eight)]
    # What grows is what the smaller share of the weights leaves.
    assert held[0] < held[1] < held[2] < 1.05 * held[0]
    latent = [size(f"H100:{count}", change=LATENT).cache for count in (1, 8)]
    assert latent[0] == latent[1]


def test_requests_and_replicas() -> None:
    """At worst all are at full length; on average each counts at its end; vLLM runs so many at once by default."""
    load = Load(8192, users=2000, prompt=500, output=300)
    one = size("H100", load)
    assert one.concurrency(8192) == pytest.approx(
        (0.9 * 79.18 - 1.5 - WEIGHTS / GIB) * GIB / (36 * 1024 * 8192)
    )
    assert (one.at_once(8192), one.at_once(800), one.replicas(8192), one.replicas(800)) == (227, 1024, 9, 2)
    assert size("L4", load).at_once(800) == 256
    assert size("H100:2", load, data_parallel=2).at_once(800) == 2048
    assert size("H100", Load(8192)).replicas(8192) is None
    text = describe(one, Money())
    assert (
        "227 requests of 8,192 tokens" in text
        and "1,024 requests of 800 tokens (vLLM's MAX_NUM_SEQS)" in text
    )
    assert "9 for 2,000 requests" in text and "2 for 2,000 requests" in text


def test_the_longest_context() -> None:
    """It ends where the model does or the memory; a cache of a given size bounds it, whatever the GPU has."""
    assert size("H100").longest == 32_768
    none = size("7GiB")
    assert (none.longest, none.fits, none.context_to_set) == (0, False, None)
    tight = size("12GiB", Load(32_768), weights=8.3 * GIB)
    assert (tight.longest, tight.fits, tight.context_to_set) == (29_127, False, 28_928)
    assert size("H100", kv_cache_memory_bytes=36 * 1024 * 1000).longest == 1000
    assert size("T4").dtype == "float16" and size("24GiB").dtype == "bfloat16"
    assert size("cpu:64GiB").room.kv_bytes == 8 * 8192 * 36 * 1024


WAYS: list[tuple[str, dict[str, Any], float, list[str]]] = [
    ("L4", {}, 15 * GIB, []),
    ("L4", {}, 17.8 * GIB, ["a shorter context: --context 15104", "a KV cache of 8 bits"]),
    (
        "L4",
        {},
        30 * GIB,
        [
            "a quantised model: FP8 or INT8 weights take about 15.0",
            "more GPUs: 2 x L4",
            "more memory: 1 x A100-40GB",
        ],
    ),
    ("L4", {}, 55 * GIB, ["a quantised model: 4-bit", "more GPUs: 4 x L4", "more memory: 1 x A100-80GB"]),
    (
        "L4",
        {"quantization_config": {"quant_method": "awq"}},
        30 * GIB,
        ["more GPUs: 2 x L4", "more memory: 1 x A100-40GB"],
    ),
    ("cpu:16GiB", {}, 30 * GIB, ["a quantised model: 4-bit", "a GPU: 1 x A100-40GB"]),
    ("B200", {}, 99_999 * GIB, []),
]


def test_what_would_make_it_fit() -> None:
    for gpu, change, weights, expected in WAYS:
        found = ways_out(size(gpu, Load(16_384), change, weights))
        assert len(found) >= len(expected)
        for wanted in expected:
            assert any(wanted in way for way in found), (gpu, weights, found)
    lost = describe(size("B200", Load(16_384), weights=99_999 * GIB), Money())
    assert "It does not fit" in lost and "nothing that is tried here" in lost and "docker run" not in lost


def test_cost() -> None:
    """A measured throughput gives the cost, the bandwidth only what it is above; a mixture of experts has no bound."""
    load = Load(4096, users=256, prompt=48, output=128)
    one = size("H100", load)
    bound = bandwidth_bound(one)
    assert bound is not None and (bound.requests, bound.tokens) == (256, 112)
    step = (WEIGHTS + 256 * 112 * 36 * 1024) / 3350e9
    assert bound.tokens_per_second == pytest.approx(256 / step)
    assert round(bound.tokens_per_second, -3) == 119_000 and "this bound is 119,000" in PAGE
    assert cost_per_million(size("H100:2", load), 2.5, 1000) == pytest.approx(2 * 2.5 / 3600 / 1000 * 1e6)
    untied = bandwidth_bound(size("H100", load, {"tie_word_embeddings": False, "vocab_size": 151_936}))
    assert untied is not None and untied.tokens_per_second > bound.tokens_per_second
    for gpu, change in (("24GiB", {}), ("H100", {"num_experts": 8}), ("H100", {"attn_layer_period": 8})):
        assert bandwidth_bound(size(gpu, load, change)) is None
    assert "measure it (`vllm-engine bench`)" in describe(size("24GiB", load), Money(2.5))
    assert "more than 0.0" in describe(one, Money(2.5))
    assert "0.69 for a million generated tokens, at 1,000 tokens/s a replica" in describe(
        one, Money(2.5, 1000)
    )
    assert "above the bound" in describe(one, Money(2.5, 999_999))
    assert "5.00 an hour for 2 replicas" in describe(
        size("H100", Load(8192, 2000, 500, 300)), Money(2.5, 1000)
    )
    found = as_json(one, Money(2.5))["cost_per_million_tokens"]
    assert found["is_lower_bound"] and found["value"] == pytest.approx(
        2.5 / 3600 / bound.tokens_per_second * 1e6
    )


def test_what_is_not_counted_is_said() -> None:
    """Linear layers, experts of several copies, windows, uneven layers, several machines, images."""
    cases: tuple[tuple[str, dict[str, Any], dict[str, Any], str], ...] = (
        ("H100", {"layer_types": ["full_attention", "linear_attention"] * 18}, {}, "the state of 18 linear"),
        ("H100:2", {"num_experts": 8}, {"data_parallel": 2}, "split the experts"),
        ("H100", MIXED, {}, "18 layers keep 4 tokens and 16,384 of the steps"),
        ("H100:2", MIXED, {"pipeline_parallel": 2}, "9 layers keep 4 tokens and 24,576 of the steps"),
        ("H100:6", {}, {}, "split evenly"),
        ("H100:16", {}, {}, "16 GPUs are taken for 2 machines"),
        ("H100", MIXED, {}, "past all prompts 454 requests of 8,192 tokens fit"),
        (
            "H100",
            {"rope_scaling": {"type": "linear", "factor": 4}},
            {},
            "the model's own maximum only vLLM can tell",
        ),
        ("H100", {"text_config": QWEN}, {}, "images"),
        ("H100", {}, {}, "speculative decoding are not counted"),
    )
    for gpu, change, options, told in cases:
        assert told in describe(size(gpu, change=change, **options), Money())
    unknown = size("H100", change={"attn_layer_period": 8})
    assert unknown.fits and "only vLLM can tell" in describe(unknown, Money())
    assert as_json(unknown, Money())["kv_cache_tokens"] is None
    assert "--kv-cache-dtype fp8 455 requests" in describe(size("H100", Load(8192, users=300)), Money())


def test_fewer_gpus_in_larger_replicas() -> None:
    """Where the weights leave little of a GPU, several that share them run more requests than as many alone."""
    crowded = describe(size("H100:2", Load(8192, users=200), {"num_key_value_heads": 8}, 130 * GIB), Money())
    assert "in replicas of 4 x H100 the users need 8 GPUs, not 50" in crowded
    assert "in replicas of" not in describe(size("H100", Load(8192, users=200)), Money())
    assert "in replicas of" not in describe(size("cpu:64GiB", Load(8192, users=200)), Money())


REFUSED: list[tuple[str, Load, dict[str, Any], str]] = [
    ("H100", Load(40_000), {}, "the model holds at most 32768 tokens"),
    ("H100", Load(1000, prompt=900, output=200), {}, "give a longer context"),
    ("H100:3", Load(8192), {"data_parallel": 2}, "--data-parallel must divide the 3 GPU(s)"),
    ("H100:4", Load(8192), {"tensor_parallel": 3}, "must make 4 GPU(s)"),
    ("H100:3", Load(8192), {"tensor_parallel": 3}, "3 does not divide the model's 16 attention heads"),
    ("H100:64", Load(8192), {"pipeline_parallel": 64}, "36 layers"),
    ("H100", Load(8192), {"kv_cache_dtype": "nvfp4"}, "expected one of auto"),
]


@pytest.mark.parametrize(("gpu", "load", "options", "told"), REFUSED, ids=lambda value: str(value)[:30])
def test_refused_in_one_line(gpu: str, load: Load, options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as refused:
        size(gpu, load, **options)
    assert told in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_suggested_can_be_used() -> None:
    """The settings exist, the command and `.env` carry them, and the chart's schema takes the values."""
    load = Load(8192, users=2000, prompt=500, output=300)
    schema = json.loads((ROOT / "deploy/helm/vllm-engine/values.schema.json").read_text())
    for gpu, options in (
        ("H100:6", {"kv_cache_dtype": "fp8", "dtype": "float16"}),
        ("H100:4", {"tensor_parallel": 2, "data_parallel": 2}),
        ("cpu:64GiB", {}),
        ("H100", {"kv_cache_memory_bytes": 10 * GIB, "max_num_seqs": 99}),
    ):
        replica = size(gpu, load, **options)
        settings = suggested_settings(replica)
        flags = {"KV_CACHE_DTYPE", "KV_CACHE_MEMORY_BYTES", "MAX_NUM_SEQS"}
        assert {name.lower() for name in settings.keys() - flags} <= Settings.model_fields.keys()
        assert env_file(replica).splitlines() == [f"{key}={value}" for key, value in settings.items()]
        assert all(f"-e {key}={value} " in (docker_command(replica) or "") for key, value in settings.items())
        values = yaml.safe_load(values_file(replica))
        jsonschema.validate(values, schema)
        assert values["replicas"] == replica.replicas(800) and values["model"]["maxLength"] == 8192
        assert (values.get("workload") == {"kind": "StatefulSet"}) == (values["replicas"] > 1)
        assert values["gpu"]["count"] == (0 if replica.hardware.is_cpu else replica.hardware.count)
    folder = replace(size("H100"), model=SizedModel("/models/my model's", QWEN, WEIGHTS))
    assert "-v '/models/my model'\"'\"'s:/models/my model'\"'\"'s:ro'" in (docker_command(folder) or "")
    assert env_file(folder).splitlines()[0] == r"MODEL_ID='/models/my model\'s'"
