"""Values that the chart refuses, each with its key in the message: typos, wrong types, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.deploy.charts import Helm, Refused

SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "a typo": ({"modle": {"id": "x"}}, "modle"),
    "a typo inside": ({"model": {"idd": "x"}}, "idd"),
    "a setting that the program does not have": ({"settings": {"MAX_IN_FLIGH": 1}}, "MAX_IN_FLIGH"),
    "a setting with a value of its own": ({"settings": {"MODEL_ID": "x"}}, "MODEL_ID"),
    "a secret as a setting": ({"settings": {"API_KEYS": "x"}}, "API_KEYS"),
    "a setting of the image": ({"settings": {"PORT": 9000}}, "PORT"),
    "a text for a number": ({"replicas": "two"}, "replicas"),
    "less than none": ({"gpu": {"count": -1}}, "count"),
    "a word that is not of the list": ({"cache": {"type": "pvc"}}, "type"),
    "no amount": ({"cache": {"size": "50 GB"}}, "size"),
    "a number for a label": ({"commonLabels": {"release": 1}}, "release"),
    "a label of the chart's": ({"podLabels": {"app.kubernetes.io/name": "x"}}, "app.kubernetes.io/name"),
    "no label's value": ({"commonLabels": {"team": "a b"}}, "team"),
    "a variable without a name": ({"extraEnv": [{"value": "x"}]}, "name"),
    "a variable that is a number": ({"extraEnv": [{"name": "X", "value": 1}]}, "value"),
    "a name that no Service can have": ({"fullnameOverride": "1st"}, "fullnameOverride"),
    "a list for an object": ({"affinity": []}, "affinity"),
    "a short key": ({"apiKeys": {"keys": {"me": "short"}}}, "me"),
    "a key's name with a blank": ({"apiKeys": {"keys": {"my key": "a-long-enough-key"}}}, "my key"),
    "a hash that is not whole": ({"apiKeys": {"keys": {"me": "sha256:beef"}}}, "me"),
    "no model": ({"model": {"id": ""}}, "id"),
    "a grace that is no whole number": ({"shutdown": {"lameDuckSeconds": 2.5}}, "lameDuckSeconds"),
}

CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "replicas on one claim": (
        {"replicas": 2},
        "cache: several replicas cannot share a claim of ReadWriteOnce",
    ),
    "a claim and another cache": (
        {"cache": {"type": "emptyDir", "existingClaim": "models"}},
        "cache.existingClaim: it is not used with cache.type=emptyDir",
    ),
    "a node's folder without a path": (
        {"cache": {"type": "hostPath"}},
        "cache.hostPath.path: cache.type=hostPath",
    ),
    "two tokens": ({"hfToken": {"value": "a", "existingSecret": "b"}}, "hfToken: value and existingSecret"),
    "keys twice": (
        {"apiKeys": {"keys": {"me": "a-long-enough-key"}, "existingSecret": "b"}},
        "apiKeys: keys and existingSecret",
    ),
    "a node's port inside": ({"service": {"nodePort": 30080}}, "service.nodePort: it needs service.type="),
    "auto of how many": (
        {"parallel": {"tensor": "auto"}},
        "gpu.count: parallel.tensor=auto needs the number",
    ),
    "too few GPUs": (
        {"parallel": {"tensor": 4}, "gpu": {"count": 2}},
        "gpu.count: 2 is less than the 4 that parallel asks of each pod",
    ),
    "a variable twice": (
        {"extraEnv": [{"name": "MODEL_ID", "value": "x"}]},
        "extraEnv: MODEL_ID is set by the chart",
    ),
    "a secret in the pod's specification": (
        {"extraEnv": [{"name": "HF_TOKEN", "value": "hf_x"}]},
        "extraEnv: HF_TOKEN is set by the chart, or a secret",
    ),
    "no Gateway": (
        {"httpRoute": {"enabled": True, "allowWithoutKeys": True}},
        "httpRoute.parentRefs: no Gateway",
    ),
    "no picker": (
        {"inferencePool": {"enabled": True}},
        "inferencePool.endpointPicker.name: an InferencePool",
    ),
    "a pool and HTTPS": (
        {"inferencePool": {"enabled": True}, "tls": {"existingSecret": "a"}},
        "inferencePool: Gateways and endpoint pickers speak plain HTTP",
    ),
    "two autoscalers": ({"hpa": {"enabled": True}, "keda": {"enabled": True}}, "keda: KEDA makes a"),
    "most below fewest": ({"hpa": {"enabled": True, "minReplicas": 5}}, "hpa.maxReplicas: 4 is less than"),
    "KEDA without Prometheus": ({"keda": {"enabled": True}}, "keda.serverAddress: KEDA needs the URL"),
    "a query without its labels": (
        {"keda": {"enabled": True, "serverAddress": "http://p"}},
        "keda.query: its default needs the labels that serviceMonitor.enabled=true",
    ),
    "two balancers": (
        {"router": {"enabled": True}, "inferencePool": {"enabled": True}},
        "router: an InferencePool has a picker",
    ),
    "a router and HTTPS": (
        {"router": {"enabled": True}, "tls": {"existingSecret": "a"}},
        "router: vllm-router speaks plain HTTP",
    ),
    "a router that does not notice": ({"router": {"enabled": True}}, "shutdown.lameDuckSeconds: the router"),
    "groups of one pod": (
        {"multiNode": {"enabled": True}, "workload": {"kind": "StatefulSet"}, "parallel": {"data": 2}},
        "workload.kind: multiNode makes a LeaderWorkerSet",
    ),
    "unequal nodes": (
        {"multiNode": {"enabled": True}, "parallel": {"tensor": 3}},
        "multiNode.nodes: 3 GPUs",
    ),
    "an idle stop of nodes": (
        {"multiNode": {"enabled": True}, "parallel": {"tensor": 2}, "settings": {"IDLE_STOP_SECONDS": 60}},
        "settings.IDLE_STOP_SECONDS: it works on one node only",
    ),
    "a fit of nodes": (
        {"multiNode": {"enabled": True}, "parallel": {"tensor": 2}, "settings": {"AUTO_FIT": True}},
        "settings.AUTO_FIT: it works on one node only",
    ),
    "a pipeline of CPUs": (
        {"gpu": {"count": 0}, "parallel": {"pipeline": 2}},
        "parallel.pipeline: vLLM's CPU build fails with it",
    ),
    "another port": ({"extraArgs": ["--port", "9000"]}, "extraArgs: --port is set by the chart"),
    "another port, spelled otherwise": ({"extraArgs": ["--health_port=9000"]}, "extraArgs: --health-port"),
    "GPUs that are not asked for": ({"extraArgs": ["-tp", "4"]}, "extraArgs: -tp is set by the chart"),
    "another length": (
        {"extraArgs": ["--max-model-len=1"]},
        "extraArgs: --max-model-len is set by the chart",
    ),
    "a secret on the command line": ({"extraArgs": ["--api-key=abc"]}, "extraArgs: --api-key"),
}


@pytest.mark.parametrize("case", SCHEMA)
def test_schema(helm: Helm, case: str) -> None:
    values, named = SCHEMA[case]
    said = _refusal(helm, values)
    assert "values don't meet the specifications of the schema" in said
    assert named in said


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions(newest_helm: Helm, case: str) -> None:
    values, words = CONTRADICTIONS[case]
    assert words in _refusal(newest_helm, values)


def test_all_contradictions_are_said_at_once(helm: Helm) -> None:
    said = _refusal(helm, {"replicas": 2, "service": {"nodePort": 30080}})
    assert "cache: several" in said
    assert "service.nodePort:" in said


def _refusal(helm: Helm, values: dict[str, Any]) -> str:
    with pytest.raises(Refused) as refused:
        helm.text(values)
    return str(refused.value)
