"""The values of the pod: probes, storage, rights, where it runs, and what users add to it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from tools.chart.value_types import Amount, Count, CountOrZero, Name, Object, Part, Quantity, Seconds


class Gpu(Part):
    """The devices of a pod."""

    count: CountOrZero | None = None
    """GPUs of a pod; default: as many as `parallel` needs. 0 asks for none and runs the image for CPUs."""
    resource: Annotated[str, StringConstraints(pattern="^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"
    """The resource that a GPU is asked for by, such as `nvidia.com/mig-3g.40gb`; another maker's needs an image of your own."""


class EmptyDir(Part):
    """A cache that goes with the pod."""

    sizeLimit: Quantity | None = None
    """The most that the folder may hold; a pod above it is evicted."""


class HostPath(Part):
    """A cache on the node."""

    path: Annotated[str, StringConstraints(pattern="^$|^/")] = ""
    """Folder of the node; group 0 has to be able to write to it, which Kubernetes does not see to."""
    type: Literal["DirectoryOrCreate", "Directory"] = "Directory"
    """`DirectoryOrCreate` makes the folder, as root's, so that only a container that runs as root can write to it."""


class Cache(Part):
    """Where models and compile caches are kept: CACHE_DIR."""

    type: Literal["persistentVolumeClaim", "hostPath", "emptyDir"] = "persistentVolumeClaim"
    """What holds models and compile caches: a claim, a folder of the node, or a folder that goes with the pod."""
    existingClaim: Name = ""
    """A claim that is there already; without one the chart makes it."""
    size: Quantity = "50Gi"
    """Size of the claim that is made: the weights and some hundred MB of compile caches."""
    accessModes: list[Literal["ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"]] = ["ReadWriteOnce"]
    """How the claim that is made can be mounted; several pods that share it need `ReadWriteMany`."""
    storageClass: str | None = None
    """Storage class of the claim that is made; null takes the cluster's default, `""` none."""
    annotations: dict[str, str] = {}
    """Annotations of the claim that is made."""
    keep: bool = True
    """Keeps the claim that was made when the release is uninstalled, so that weights are downloaded once."""
    emptyDir: EmptyDir = EmptyDir()
    """Of the type `emptyDir`."""
    hostPath: HostPath = HostPath()
    """Of the type `hostPath`."""


class Probe(Part):
    """How often one probe asks."""

    periodSeconds: Count
    """Seconds from one question to the next."""
    failureThreshold: Count
    """Failures in a row that count."""
    timeoutSeconds: Count = 5
    """Seconds that an answer may take."""


class Probes(Part):
    """What the kubelet asks on the health port: plain HTTP, no key."""

    startup: Probe = Probe(periodSeconds=5, failureThreshold=12)
    """`/livez`: the program answers, which takes seconds and does not wait for the model."""
    liveness: Probe = Probe(periodSeconds=10, failureThreshold=6)
    """`/livez`: the program answers; a lost engine is restarted inside the pod, without losing requests."""
    readiness: Probe = Probe(periodSeconds=5, failureThreshold=2)
    """`/healthz`: the engine has generated a token, and was not lost."""


class Resources(Part):
    """CPU and memory; GPUs are added."""

    requests: dict[str, Amount] = {"cpu": 2, "memory": "8Gi"}
    """What a node has to have free; GPUs are added from `gpu`."""
    limits: dict[str, Amount] = {"memory": "24Gi"}
    """What the container may use; GPUs are added from `gpu`, and `sharedMemory` counts as memory."""


class ServiceAccount(Part):
    """Whom the pod is for the API server, which it never asks."""

    create: bool = False
    """Makes an account for the pod."""
    name: Name = ""
    """The account's name; default: the release's if it is made, else `default`."""
    annotations: dict[str, str] = {}
    """Annotations of the account that is made."""


class Shutdown(Part):
    """How a pod stops; terminationGracePeriodSeconds is computed from it."""

    lameDuckSeconds: Seconds = 5
    """LAME_DUCK_SECONDS: how long to serve on after SIGTERM, while load balancers learn that the pod is not ready."""
    drainTimeoutSeconds: Seconds = 25
    """DRAIN_TIMEOUT_SECONDS: how long running answers may take to end."""
    extraGraceSeconds: Seconds = 0
    """Seconds added to the grace period, for a `lifecycle.preStop` that runs a command; a `sleep` is counted anyway."""


POD_SECURITY: Object = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 0,
    "fsGroup": 0,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class SmokeTest(Part):
    """The pod of `helm test`."""

    enabled: bool = True
    """Has `helm test` run `vllm-engine smoke` against the Service."""
    apiKeySecret: Name = ""
    """Secret with a key for the test in `apiKeySecretKey`; default: the first of `apiKeys.keys` that is not a hash."""
    apiKeySecretKey: str = "api-key"
    """The key's name in `apiKeySecret`."""
    waitSeconds: Annotated[int, Field(ge=0)] = 1800
    """How long the test waits until the server is ready; give `helm test --timeout` as long."""
