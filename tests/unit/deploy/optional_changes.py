"""As value_changes.py, for the values of what is off by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Changes = dict[str, tuple[Any, Mapping[str, Any]]]
PEERS = [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]
MANY = {"cache": {"accessModes": ["ReadWriteMany"]}}
LATER = {"shutdown": {"lameDuckSeconds": 15}}
ALONE = {"networkPolicy": {"enabled": True}}
TWO = ALONE | {"parallel": {"tensor": 2}}
SLOWLY = {"scaleUp": {"stabilizationWindowSeconds": 60}}


def of(part: str, changes: Mapping[str, Any], **company: Any) -> Changes:
    """Changes of one part that is enabled, and that may need company."""
    enabled = {part: {"enabled": True, **company.pop(part, {})}, **company}
    return {f"{part}.{name}": (value, enabled) for name, value in changes.items()}


OPEN = {"allowWithoutKeys": True}
GATEWAY = OPEN | {"parentRefs": [{"name": "gateway"}]}
POOL = {"endpointPicker": {"name": "picker"}}
PROMETHEUS = {"serverAddress": "http://prometheus:9090", "query": "sum(up)"}

OPTIONAL: Changes = {
    "ingress.enabled": (True, {"ingress": OPEN}),
    **of(
        "ingress",
        {
            "className": "nginx",
            "hosts": ["llm.example.com"],
            "tls": [{"hosts": ["llm.example.com"], "secretName": "certificate"}],
            "annotations": {"a": "b"},
            "nginx": False,
            "timeoutSeconds": 60,
        },
        ingress=OPEN,
    ),
    "httpRoute.enabled": (True, {"httpRoute": GATEWAY}),
    **of(
        "httpRoute",
        {
            "parentRefs": [{"name": "other"}],
            "hostnames": ["llm.example.com"],
            "annotations": {"a": "b"},
            "timeout": "1h",
        },
        httpRoute=GATEWAY,
    ),
    "inferencePool.enabled": (True, {"inferencePool": POOL}),
    **of(
        "inferencePool",
        {
            "endpointPicker.name": "other",
            "endpointPicker.port": 9003,
            "endpointPicker.failureMode": "FailClose",
            "podLabels": {"llm-d.ai/model": "qwen"},
        },
        inferencePool=POOL,
    ),
    "networkPolicy.enabled": (True, {}),
    **of(
        "networkPolicy",
        {"apiFrom": PEERS, "metricsFrom": PEERS, "downloads": False, "extraEgress": [{"to": PEERS}]},
    ),
    "podDisruptionBudget.enabled": (True, {}),
    **of("podDisruptionBudget", {"minAvailable": "50%", "maxUnavailable": 2}),
    "hpa.enabled": (True, MANY),
    **of(
        "hpa",
        {"minReplicas": 2, "maxReplicas": 8, "metric": "waiting", "target": 10, "behavior": SLOWLY},
        **MANY,
    ),
    "keda.enabled": (True, MANY | {"keda": PROMETHEUS}),
    **of(
        "keda",
        {
            "minReplicas": 2,
            "maxReplicas": 8,
            "serverAddress": "http://other:9090",
            "query": "sum(vllm:num_requests_waiting)",
            "threshold": 10,
            "pollingSeconds": 60,
            "behavior": SLOWLY,
            "authentication": "prometheus",
        },
        keda=PROMETHEUS,
        **MANY,
    ),
    "serviceMonitor.enabled": (True, {}),
    **of(
        "serviceMonitor",
        {
            "labels": {"release": "prometheus"},
            "interval": "60s",
            "scrapeTimeout": "5s",
            "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "python_.*"}],
        },
    ),
    "prometheusRule.enabled": (True, {}),
    **of("prometheusRule", {"labels": {"release": "prometheus"}}),
    "router.enabled": (True, LATER),
    **of(
        "router",
        {
            "image.repository": "registry.example.com/router",
            "image.tag": "0.1.18",
            "image.pullPolicy": "Always",
            "replicas": 1,
            "policy": "cache_aware",
            "extraArgs": ["--log-level=info"],
            "resources": {"requests": {"cpu": "1"}},
        },
        **LATER,
    ),
    "parallel.pipeline": (2, {}),
    "parallel.data": (2, {}),
    "multiNode.enabled": (True, TWO),
    **of(
        "multiNode",
        {
            "nodes": 4,
            "exclusiveTopology": "topology.kubernetes.io/zone",
            "subdomainPolicy": "UniquePerReplica",
            "interface": "eth1",
        },
        **ALONE,
        parallel={"tensor": 8},
    ),
}

LIFTED: dict[str, Mapping[str, Any]] = {
    "service.allowWithoutKeys": {"service": {"type": "NodePort"}},
    "ingress.allowWithoutKeys": {"ingress": {"enabled": True}},
    "httpRoute.allowWithoutKeys": {"httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]}},
    "multiNode.allowWithoutNetworkPolicy": {"multiNode": {"enabled": True}, "parallel": {"tensor": 2}},
}
"""Values that change nothing but a refusal, and what is refused without them."""
