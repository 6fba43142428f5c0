"""The values of what is off by default: routes, policies, autoscaling and monitoring."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from tools.chart.value_types import Count, Name, Object, Objects, Part, Port, Texts

Duration = Annotated[str, StringConstraints(pattern="^([0-9]{1,5}(h|m|s|ms)){1,4}$")]
"""Of the Gateway API and of Prometheus, as `30s`: https://gateway-api.sigs.k8s.io/geps/gep-2257/."""


class Ingress(Part):
    """The API outside of the cluster, by an Ingress."""

    enabled: bool = False
    """Makes an Ingress; it needs API keys or `allowWithoutKeys`."""
    allowWithoutKeys: bool = False
    """Lets everybody use the model who reaches the Ingress."""
    className: str = ""
    """Which ingress controller; empty: the cluster's default."""
    hosts: list[str] = []
    """Host names; without one, every name."""
    tls: Objects = []
    """Certificates, as `- {hosts: [x], secretName: y}`."""
    annotations: Texts = {}
    """More annotations, such as another controller's timeouts; they win over those for ingress-nginx."""
    nginx: bool = True
    """Annotations for ingress-nginx: no buffering, no limit of 60 s, bodies up to `settings.MAX_BODY_BYTES`."""
    timeoutSeconds: Count = 3600
    """With `nginx`: the longest silence; streams have a comment every KEEP_ALIVE_SECONDS, other answers are silent to their end."""


class HttpRoute(Part):
    """The API outside of the cluster, by a Gateway."""

    enabled: bool = False
    """Makes an HTTPRoute to the Service, the router or the InferencePool; it needs API keys or `allowWithoutKeys`."""
    allowWithoutKeys: bool = False
    """Lets everybody use the model who reaches the Gateway."""
    parentRefs: Objects = []
    """The Gateways, as `- {name: x, namespace: y}`."""
    hostnames: list[str] = []
    """Host names; without one, the Gateway's."""
    annotations: Texts = {}
    """Annotations of the HTTPRoute."""
    timeout: Annotated[str, StringConstraints(pattern="^$|^([0-9]{1,5}(h|m|s|ms)){1,4}$")] = "0s"
    """The longest response: `0s` is none, or the longest that the implementation has; empty leaves it to the implementation."""


class EndpointPicker(Part):
    """Chooses the pod for each request: installed by llm-d's or the Inference Extension's own chart."""

    name: Name = ""
    """Its Service."""
    port: Port = 9002
    """The port of its ext-proc protocol."""
    failureMode: Literal["FailOpen", "FailClose"] = "FailOpen"
    """While it is away: `FailOpen` takes any ready pod, `FailClose` answers with an error."""


class InferencePool(Part):
    """The pods as a pool of the Gateway API Inference Extension, for llm-d's endpoint picker."""

    enabled: bool = False
    """Makes an InferencePool, and opens `/metrics` on the API's port to the picker, which has no key."""
    endpointPicker: EndpointPicker = EndpointPicker()
    """Chooses the pod for each request."""
    podLabels: Texts = {"llm-d.ai/engine-type": "vllm", "llm-d.ai/role": "both"}
    """Labels of pods that the picker reads; add `llm-d.ai/model` where its configuration asks for it."""


class NetworkPolicy(Part):
    """Which connections pods may have; needs a network plug-in that enforces it."""

    enabled: bool = False
    """Refuses what is not listed here."""
    apiFrom: Objects = [{"podSelector": {}}]
    """Who may use the API (with `router`: reach the router), as peers; by default the namespace's pods."""
    metricsFrom: Objects = [{"namespaceSelector": {}}]
    """Who may read probes and metrics on the health port, as peers; by default every pod of the cluster."""
    downloads: bool = True
    """Lets pods reach any address on port 443, for models of the hub."""
    extraEgress: Objects = []
    """More rules for what pods may reach, such as the collector of OTLP_ENDPOINT."""


class PodDisruptionBudget(Part):
    """How many pods a node's drain may take at once."""

    enabled: bool = False
    """Makes a PodDisruptionBudget, and one of the router; pods that are not ready may always be taken."""
    minAvailable: int | str | None = None
    """Pods that stay ready, a number or a percentage (all of them: no node can be drained); `maxUnavailable` is then not used."""
    maxUnavailable: int | str = 1
    """Pods that may be taken at once, a number or a percentage."""


class Hpa(Part):
    """Replicas by a metric of the custom metrics API, which an adapter makes of Prometheus' metrics."""

    enabled: bool = False
    """Makes a HorizontalPodAutoscaler; `replicas` is then not used."""
    minReplicas: Count = 1
    """The fewest pods."""
    maxReplicas: Count = 4
    """The most pods."""
    metric: Annotated[str, StringConstraints(min_length=1)] = "vllm_num_requests_waiting"
    """The metric's name, of each pod, as the adapter has it; docs/deploy/kubernetes.md has the adapter's rule."""
    target: Count = 5
    """Waiting requests of a pod, on average, above which pods are added."""
    behavior: Object = {"scaleDown": {"stabilizationWindowSeconds": 300}}
    """How fast; pods take minutes to be ready, so that few should go at once."""


class Keda(Part):
    """Replicas by a query of Prometheus, with KEDA."""

    enabled: bool = False
    """Makes a ScaledObject; `replicas` is then not used."""
    minReplicas: Count = 1
    """The fewest pods: not 0, since pods that are gone report no waiting requests (IDLE_STOP_SECONDS frees an idle pod's memory)."""
    maxReplicas: Count = 4
    """The most pods."""
    serverAddress: Annotated[str, StringConstraints(pattern="^$|^https?://")] = ""
    """URL of Prometheus."""
    query: str = ""
    """The query; default: waiting requests of this release, as `serviceMonitor` labels them."""
    threshold: Count = 5
    """Waiting requests for each pod, above which pods are added."""
    pollingSeconds: Count = 15
    """How often Prometheus is asked."""
    behavior: Object = {"scaleDown": {"stabilizationWindowSeconds": 300}}
    """How fast, as in a HorizontalPodAutoscaler."""
    authentication: Name = ""
    """A TriggerAuthentication for Prometheus."""


class ServiceMonitor(Part):
    """Scrapes every pod with Prometheus Operator."""

    enabled: bool = False
    """Makes a ServiceMonitor of the health port; the annotations of `prometheusAnnotations` are then left out."""
    labels: Texts = {}
    """Labels by which your Prometheus selects ServiceMonitors, such as `release: prometheus`."""
    interval: Duration = "15s"
    """How often."""
    scrapeTimeout: Duration = "10s"
    """How long a scrape may take."""
    metricRelabelings: Objects = []
    """Rules for metrics, to drop some."""


class PrometheusRule(Part):
    """deploy/observability/rules.yml for Prometheus Operator: records and alerts."""

    enabled: bool = False
    """Makes a PrometheusRule, for every engine that Prometheus scrapes: enable it in one release."""
    labels: Texts = {}
    """Labels by which your Prometheus selects rules."""


class RouterImage(Part):
    """The image of deploy/router/Dockerfile."""

    repository: str = "ghcr.io/vllm-engine/vllm-engine-router"
    """Where the image is; no release is published yet, so until then a registry that you pushed it to."""
    tag: str = "0.1.17"
    """Its version, which is vllm-router's."""
    pullPolicy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the image is pulled."""


class Router(Part):
    """vllm-router in front of `replicas`, without an endpoint picker and without rights in the cluster."""

    enabled: bool = False
    """Makes a Deployment of vllm-router and its Service, which routes then lead to; it finds pods by the headless Service's DNS name."""
    image: RouterImage = RouterImage()
    """The image of deploy/router/Dockerfile."""
    replicas: Count = 2
    """Routers; `cache_aware` knows prefixes only within each of them."""
    policy: Literal[
        "round_robin", "random", "power_of_two", "cache_aware", "consistent_hash", "sticky_least_loaded"
    ] = "round_robin"
    """How a pod is chosen; docs/deploy/replicas.md compares them."""
    extraArgs: list[str] = []
    """More options of vllm-router."""
    resources: Object = {"requests": {"cpu": "500m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    """CPU and memory of a router."""


class MultiNode(Part):
    """One model over several nodes, by LeaderWorkerSet: `replicas` is then the number of groups."""

    enabled: bool = False
    """Makes a LeaderWorkerSet instead of `workload.kind`; its controller has to be installed."""
    nodes: Annotated[int, Field(ge=2)] = 2
    """NODES: pods of a group, of which the first has the API; each gets an equal share of the GPUs that `parallel` makes."""
    exclusiveTopology: str = ""
    """Label of nodes, such as `topology.kubernetes.io/zone`: a group has one of its values for itself."""
    subdomainPolicy: Literal["Shared", "UniquePerReplica"] = "Shared"
    """Whether all groups share one headless Service or each has its own, for thousands of pods."""
    interface: str = ""
    """NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME: the pods' network interface, where they have several."""
    allowWithoutNetworkPolicy: bool = False
    """Lets every pod of the cluster reach what the nodes talk over, where it could run code in them; else `networkPolicy.enabled` is needed."""
