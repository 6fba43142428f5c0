"""For every value of the chart another one than its default, and what else has to be set for it to count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.unit.deploy.optional_changes import OPTIONAL
from tools.chart.value_types import Part
from tools.chart.values import Values

TOKEN = {"hfToken": {"existingSecret": "token"}}
KEYS = {"apiKeys": {"existingSecret": "keys"}}
BALANCER = KEYS | {"service": {"type": "LoadBalancer"}}
PORT_OF_NODES = KEYS | {"service": {"type": "NodePort"}}
ACCOUNT = {"serviceAccount": {"create": True}}
MOUNT = {"name": "data", "emptyDir": {}}

CHANGES: dict[str, tuple[Any, Mapping[str, Any]]] = {
    "nameOverride": ("engine", {}),
    "fullnameOverride": ("engine", {}),
    "commonLabels": ({"team": "a"}, {}),
    "image.repository": ("registry.example.com/engine", {}),
    "image.tag": ("0.1.0-cuda", {}),
    "image.digest": (f"sha256:{'a' * 64}", {}),
    "image.pullPolicy": ("Always", {}),
    "imagePullSecrets": ([{"name": "registry"}], {}),
    "model.id": ("org/other", {}),
    "model.revision": ("main", {}),
    "model.servedNames": (["a", "b"], {}),
    "model.maxLength": (4096, {}),
    "parallel.tensor": (2, {}),
    "settings": ({"MAX_IN_FLIGHT": 64}, {}),
    "extraArgs": (["--max-num-seqs=64"], {}),
    "extraEnv": ([{"name": "HF_HUB_OFFLINE", "value": "1"}], {}),
    "extraEnvFrom": ([{"secretRef": {"name": "more"}}], {}),
    "hfToken.value": ("hf_token", {}),
    "hfToken.existingSecret": ("token", {}),
    "hfToken.key": ("token", TOKEN),
    "hfToken.optional": (True, TOKEN),
    "apiKeys.keys": ({"me": "a-long-enough-key"}, {}),
    "apiKeys.existingSecret": ("keys", {}),
    "apiKeys.key": ("lines", KEYS),
    "tls.existingSecret": ("certificate", {}),
    "replicas": (0, {}),
    "workload.kind": ("StatefulSet", {}),
    "workload.updateStrategy": ({"type": "RollingUpdate"}, {}),
    "workload.progressDeadlineSeconds": (600, {}),
    "workload.revisionHistoryLimit": (1, {}),
    "workload.annotations": ({"a": "b"}, {}),
    "gpu.count": (0, {}),
    "gpu.resource": ("nvidia.com/mig-3g.40gb", {}),
    "resources.requests": ({"cpu": "500m"}, {}),
    "resources.limits": ({"memory": "100Gi"}, {}),
    "sharedMemory": ("16Gi", {}),
    "temporary": ("4Gi", {}),
    "cache.type": ("emptyDir", {}),
    "cache.existingClaim": ("models", {}),
    "cache.size": ("200Gi", {}),
    "cache.accessModes": (["ReadWriteMany"], {}),
    "cache.storageClass": ("fast", {}),
    "cache.annotations": ({"a": "b"}, {}),
    "cache.keep": (False, {}),
    "cache.emptyDir.sizeLimit": ("100Gi", {"cache": {"type": "emptyDir"}}),
    "cache.hostPath.path": ("/other", {"cache": {"type": "hostPath", "hostPath": {"path": "/models"}}}),
    "cache.hostPath.type": (
        "DirectoryOrCreate",
        {"cache": {"type": "hostPath", "hostPath": {"path": "/models"}}},
    ),
    "service.type": ("LoadBalancer", KEYS),
    "service.port": (80, {}),
    "service.nodePort": (30080, PORT_OF_NODES),
    "service.annotations": ({"a": "b"}, {}),
    "service.loadBalancerClass": ("example.com/inner", BALANCER),
    "service.loadBalancerSourceRanges": (["10.0.0.0/8"], BALANCER),
    "service.trafficDistribution": ("PreferSameZone", {}),
    **{
        f"probes.{probe}.{value}": (7, {})
        for probe in ("startup", "liveness", "readiness")
        for value in ("periodSeconds", "failureThreshold", "timeoutSeconds")
    },
    "shutdown.lameDuckSeconds": (15, {}),
    "shutdown.drainTimeoutSeconds": (120, {}),
    "shutdown.extraGraceSeconds": (10, {}),
    "lifecycle": ({"preStop": {"sleep": {"seconds": 3}}}, {}),
    "arbitraryUid": (True, {}),
    "podSecurityContext": ({"fsGroupChangePolicy": "Always"}, {}),
    "securityContext": ({"runAsUser": 10002}, {}),
    "serviceAccount.create": (True, {}),
    "serviceAccount.name": ("engine", {}),
    "serviceAccount.annotations": ({"a": "b"}, ACCOUNT),
    "podAnnotations": ({"a": "b"}, {}),
    "podLabels": ({"a": "b"}, {}),
    "prometheusAnnotations": (False, {}),
    "nodeSelector": ({"gpu": "h100"}, {}),
    "tolerations": ([{"key": "nvidia.com/gpu", "operator": "Exists"}], {}),
    "affinity": ({"podAntiAffinity": {}}, {}),
    "topologySpreadConstraints": (
        [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}],
        {},
    ),
    "priorityClassName": ("inference", {}),
    "runtimeClassName": ("nvidia", {}),
    "schedulerName": ("other", {}),
    "initContainers": ([{"name": "first", "image": "busybox"}], {}),
    "extraContainers": ([{"name": "beside", "image": "busybox"}], {}),
    "extraVolumes": ([MOUNT], {}),
    "extraVolumeMounts": ([{"name": "data", "mountPath": "/data"}], {"extraVolumes": [MOUNT]}),
    "extraObjects": (
        ["apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-more'}"],
        {},
    ),
    "smokeTest.enabled": (False, {}),
    "smokeTest.apiKeySecret": ("key", {}),
    "smokeTest.apiKeySecretKey": ("token", {"smokeTest": {"apiKeySecret": "key"}}),
    "smokeTest.waitSeconds": (60, {}),
    **OPTIONAL,
}
"""A value's path, another value, and the values that it needs beside it."""

CHANGES_NOTHING = {"global": "a chart that has this one as a part sets it; nothing here reads it"}
"""Values without effect, and why they are there."""


def paths(part: Part | None = None, prefix: str = "") -> Iterator[str]:
    """Return the path of every value."""
    part = part or Values()
    for name, field in type(part).model_fields.items():
        path, value = prefix + (field.alias or name), getattr(part, name)
        if isinstance(value, Part):
            yield from paths(value, f"{path}.")
        else:
            yield path


def beside(values: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return the values with one of them set."""
    first, _, rest = path.partition(".")
    return {**values, first: beside(values.get(first, {}), rest, value) if rest else value}
