"""The values of deploy/helm/vllm-engine: their defaults, types and sentences.

`make docs` writes values.yaml, values.schema.json and the table of docs/deploy/kubernetes.md from this.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from tools.chart.optional_values import (
    Hpa,
    HttpRoute,
    InferencePool,
    Ingress,
    Keda,
    MultiNode,
    NetworkPolicy,
    PodDisruptionBudget,
    PrometheusRule,
    Router,
    ServiceMonitor,
)
from tools.chart.pod_values import (
    CONTAINER_SECURITY,
    POD_SECURITY,
    Cache,
    Gpu,
    Probes,
    Resources,
    ServiceAccount,
    Shutdown,
    SmokeTest,
)
from tools.chart.program_settings import ProgramSettings
from tools.chart.value_types import (
    Count,
    CountOrZero,
    Labels,
    Name,
    Object,
    Objects,
    Part,
    Port,
    Quantity,
    ServiceName,
    Texts,
    Variables,
)


class Image(Part):
    """The container image."""

    repository: str = "ghcr.io/vllm-engine/vllm-engine"
    """Where the image is; no release is published yet, so until then a registry that you pushed it to."""
    tag: str = ""
    """Default: `cuda`, and `cpu` where `gpu.count` is 0."""
    digest: Annotated[str, StringConstraints(pattern="^$|^sha256:[0-9a-f]{64}$")] = ""
    """Pins the image; the tag is then not used."""
    pullPolicy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the image is pulled; `Always` for a tag that moves."""


class Model(Part):
    """What is served."""

    id: Annotated[str, StringConstraints(min_length=1)] = "Qwen/Qwen2.5-3B-Instruct"
    """MODEL_ID: a repository of the Hugging Face Hub, a folder of the container, or `bundled:smollm2-135m-instruct`."""
    revision: str = ""
    """MODEL_REVISION: pins a branch, tag or commit."""
    servedNames: list[str] = []
    """SERVED_MODEL_NAME: the names that clients send as `model`; default: `model.id`."""
    maxLength: Count | Literal["auto"] | None = None
    """MAX_MODEL_LEN: longest prompt plus output in tokens; null: 8192 or the model's maximum, whichever is less."""


class Parallel(Part):
    """How the model is split."""

    tensor: Count | Literal["auto"] = 1
    """TENSOR_PARALLEL: GPUs that each layer is split over; `auto` takes `gpu.count` as it is."""
    pipeline: Count = 1
    """PIPELINE_PARALLEL: groups of GPUs that the layers are split over."""
    data: Count = 1
    """DATA_PARALLEL: copies of the model behind one API."""


class HubToken(Part):
    """HF_TOKEN, for gated and private models."""

    value: str = ""
    """The token, from which a Secret is made; it stays in the release's values, so prefer `existingSecret`."""
    existingSecret: Name = ""
    """A Secret that is there already."""
    key: str = "hf-token"
    """The token's name in `existingSecret`."""
    optional: bool = False
    """Starts the pod although `existingSecret` lacks the token."""


Key = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "anyOf": [
                {"pattern": "^sha256:[0-9A-Fa-f]{64}$"},
                {"pattern": "^[!#-&(-~]{8,}$", "not": {"pattern": "^sha256:"}},
            ],
        }
    ),
]
"""As the program takes them from API_KEYS_FILE."""
KeyName = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class ApiKeys(Part):
    """API_KEYS_FILE: who may use the API."""

    keys: dict[KeyName, Key] = {}
    """Keys by the client's name, each as it is or as `sha256:HEX`; a Secret is made of them."""
    existingSecret: Name = ""
    """A Secret that is there already, with lines `name:key` or `name:sha256:HEX`; changes need no new pod."""
    key: str = "keys"
    """The lines' name in `existingSecret`."""


class Tls(Part):
    """HTTPS on the API's port; probes stay plain."""

    existingSecret: Name = ""
    """A Secret of the type `kubernetes.io/tls`: the API is then HTTPS, and a renewed certificate needs no new pod."""


class Service(Part):
    """How the API is reached inside the cluster."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """The Service's type; any other than `ClusterIP` is reached from outside, and needs API keys or `allowWithoutKeys`."""
    allowWithoutKeys: bool = False
    """Lets everybody use the model who reaches the nodes or the balancer."""
    port: Port = 8000
    """The Service's port."""
    nodePort: Annotated[int, Field(ge=1, le=65535)] | None = None
    """The nodes' port, of the types `NodePort` and `LoadBalancer`."""
    annotations: Texts = {}
    """Annotations of the Service."""
    loadBalancerClass: str | None = None
    """Which balancer, of the type `LoadBalancer`."""
    loadBalancerSourceRanges: list[str] = []
    """From which addresses, of the type `LoadBalancer`."""
    trafficDistribution: Literal["PreferClose", "PreferSameZone", "PreferSameNode"] | None = None
    """Prefers endpoints near the client: `PreferClose` from Kubernetes 1.31 on, the others from 1.34 on."""


class Workload(Part):
    """What keeps the pods running."""

    kind: Literal["Deployment", "StatefulSet"] = "Deployment"
    """`StatefulSet` gives each replica a claim of its own for its cache."""
    updateStrategy: Object = {}
    """Default: `Recreate` for one replica of a Deployment, else one pod after another and none more than `replicas`."""
    progressDeadlineSeconds: Count = 3600
    """How long a new pod of a Deployment may take to be ready, download included, until the rollout counts as failed."""
    revisionHistoryLimit: CountOrZero = 3
    """Old versions that are kept to roll back to."""
    annotations: Texts = {}
    """Annotations of the Deployment or StatefulSet."""


class Values(Part):
    """All values, in the order in which values.yaml has them."""

    nameOverride: ServiceName = ""
    """Replaces the chart's name in the names of objects."""
    fullnameOverride: ServiceName = ""
    """Replaces the names of objects, which are otherwise the release's and the chart's."""
    commonLabels: Labels = {}
    """Labels of every object."""
    image: Image = Image()
    """The container image."""
    imagePullSecrets: Objects = []
    """Secrets for a private registry, as `- name: x`."""
    model: Model = Model()
    """What is served."""
    parallel: Parallel = Parallel()
    """How the model is split."""
    settings: ProgramSettings = {}
    """Any other setting of the program by its name, as `MAX_IN_FLIGHT: 64`; a name that it does not have is refused."""
    extraArgs: list[str] = []
    """Flags of `vllm serve`, as on a command line: `[--max-num-seqs=64]`."""
    extraEnv: Variables = []
    """More variables, as in a container's `env`; a name that the chart sets already is refused."""
    extraEnvFrom: Objects = []
    """More sources of variables, as in a container's `envFrom`."""
    hfToken: HubToken = HubToken()
    """HF_TOKEN, for gated and private models."""
    apiKeys: ApiKeys = ApiKeys()
    """Who may use the API; without keys everybody who reaches it."""
    tls: Tls = Tls()
    """HTTPS on the API's port."""
    replicas: CountOrZero = 1
    """Pods, each with the whole model."""
    workload: Workload = Workload()
    """What keeps the pods running."""
    gpu: Gpu = Gpu()
    """The GPUs of a pod."""
    resources: Resources = Resources()
    """CPU and memory of a pod."""
    sharedMemory: Quantity = "4Gi"
    """Size of /dev/shm, which several GPUs exchange data over."""
    temporary: Quantity = "2Gi"
    """Size of /tmp."""
    cache: Cache = Cache()
    """Where models and compile caches are kept."""
    service: Service = Service()
    """How the API is reached inside the cluster."""
    ingress: Ingress = Ingress()
    """The API outside of the cluster, by an Ingress."""
    httpRoute: HttpRoute = HttpRoute()
    """The API outside of the cluster, by a Gateway."""
    inferencePool: InferencePool = InferencePool()
    """The pods as a pool of the Gateway API Inference Extension."""
    networkPolicy: NetworkPolicy = NetworkPolicy()
    """Which connections pods may have."""
    podDisruptionBudget: PodDisruptionBudget = PodDisruptionBudget()
    """How many pods a node's drain may take at once."""
    hpa: Hpa = Hpa()
    """Replicas by a metric of the custom metrics API."""
    keda: Keda = Keda()
    """Replicas by a query of Prometheus, with KEDA."""
    serviceMonitor: ServiceMonitor = ServiceMonitor()
    """Scrapes every pod with Prometheus Operator."""
    prometheusRule: PrometheusRule = PrometheusRule()
    """Records and alerts for Prometheus Operator."""
    router: Router = Router()
    """vllm-router in front of `replicas`."""
    multiNode: MultiNode = MultiNode()
    """One model over several nodes, by LeaderWorkerSet."""
    probes: Probes = Probes()
    """What the kubelet asks; the paths are fixed."""
    shutdown: Shutdown = Shutdown()
    """How a pod stops: the grace period is the sum of these, and 20 s for the last answers and the engine."""
    lifecycle: Object = {}
    """Hooks of the container; `shutdown.lameDuckSeconds` replaces a preStop sleep."""
    arbitraryUid: bool = False
    """Leaves user and groups to the platform, as OpenShift wants it."""
    podSecurityContext: Object = POD_SECURITY
    """Rights of the pod."""
    securityContext: Object = CONTAINER_SECURITY
    """Rights of the container."""
    serviceAccount: ServiceAccount = ServiceAccount()
    """Whom the pod is for the API server, which it never asks: no token is mounted."""
    podAnnotations: Texts = {}
    """More annotations of pods."""
    podLabels: Labels = {}
    """More labels of pods."""
    prometheusAnnotations: bool = True
    """Annotates pods with `prometheus.io/scrape` and the port of `/metrics`."""
    nodeSelector: Texts = {}
    """Labels of the nodes that pods may run on."""
    tolerations: Objects = []
    """Taints of nodes that pods tolerate."""
    affinity: Object = {}
    """Which nodes and other pods are preferred or wanted."""
    topologySpreadConstraints: Objects = []
    """How replicas are spread; a constraint without a `labelSelector` gets the pods' own."""
    priorityClassName: str = ""
    """Which pods give way to these."""
    runtimeClassName: str = ""
    """Container runtime, such as `nvidia` where that is not the nodes' default."""
    schedulerName: str = ""
    """Another scheduler than the default."""
    initContainers: Objects = []
    """Containers that run before."""
    extraContainers: Objects = []
    """Containers beside."""
    extraVolumes: Objects = []
    """More volumes of the pod."""
    extraVolumeMounts: Objects = []
    """Where the container sees them."""
    extraObjects: Annotated[list[Object | str], Field()] = []
    """More objects of the release; a text is a template."""
    smokeTest: SmokeTest = SmokeTest()
    """The pod of `helm test`."""
    global_: Annotated[dict[str, Any], Field(alias="global")] = {}
    """What a chart that has this one as a part shares with all its parts; nothing here reads it."""
