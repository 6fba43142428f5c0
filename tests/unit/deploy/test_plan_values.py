"""The values that `vllm-engine plan` prints are values that the chart renders, with what they say in the pod."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.deploy.charts import CHART, Helm, objects
from tests.unit.sizing.test_replica import size
from tools.chart.values import Values
from vllm_engine.sizing.replica import Load
from vllm_engine.sizing.suggestion import machines, suggested_settings, values_file

FLAGS = {"KV_CACHE_DTYPE": "--kv-cache-dtype", "KV_CACHE_MEMORY_BYTES": "--kv-cache-memory-bytes"}


@pytest.mark.parametrize(
    ("gpu", "users", "options"),
    [
        ("H100", 1, {}),
        ("H100:6", 3000, {"kv_cache_dtype": "fp8"}),
        ("H100:4", 3000, {"tensor_parallel": 2, "data_parallel": 2}),
        ("H100:16", 3000, {}),
        ("cpu:64GiB", 20, {}),
    ],
)
def test_the_chart_takes_them(newest_helm: Helm, gpu: str, users: int, options: dict[str, Any]) -> None:
    replica = size(gpu, Load(8192, users, prompt=500, output=300), **options)
    rendered = objects(newest_helm("template", "x", CHART, "--values", "-", given=values_file(replica)))
    kinds = ("Deployment", "StatefulSet", "LeaderWorkerSet")
    spec = next(one["spec"] for one in rendered if one["kind"] in kinds)
    group = spec.get("leaderWorkerTemplate")
    template = group["workerTemplate"] if group else spec["template"]
    (container,) = template["spec"]["containers"]
    variables = {one["name"]: one.get("value") for one in container["env"]}
    for name, value in suggested_settings(replica).items():
        if name == "NODES":
            assert group["size"] == int(value)
        elif name in FLAGS:
            assert f"{FLAGS[name]}={value}" in container["args"]
        else:
            assert variables[name] == value
    assert spec.get("replicas", 1) == replica.replicas(800)
    if not replica.hardware.is_cpu:
        # Of one GPU the chart's own, and of several as much for each.
        own = Values()
        count = replica.hardware.count // machines(replica)
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert limits["memory"] == _times(own.resources.limits["memory"], count)
        assert requests["memory"] == _times(own.resources.requests["memory"], count)
        (shared,) = [each["emptyDir"] for each in template["spec"]["volumes"] if each["name"] == "shm"]
        assert shared["sizeLimit"] == _times(own.sharedMemory, count)
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == (None if replica.hardware.is_cpu else replica.hardware.count // machines(replica))


def _times(amount: object, count: int) -> str:
    return f"{int(str(amount).removesuffix('Gi')) * count}Gi"
