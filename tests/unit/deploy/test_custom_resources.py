"""deploy/kserve, deploy/llm-d: the fields are those that the projects define, the settings, probes and times the program's."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.deploy.charts import MINORS, kubernetes
from tools.chart.custom_resources import definition, differences, errors, kinds
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import Settings, load_settings
from vllm_engine.engine.supervisor import STOP_GRACE_SECONDS
from vllm_engine.gateway.drain import LAST_ANSWERS_SECONDS
from vllm_engine.gateway.local.probes import PUBLIC_PATHS

ROOT = Path(__file__).parents[3]
FILES = sorted((*(ROOT / "deploy/kserve").glob("*.yaml"), *(ROOT / "deploy/llm-d").glob("*.yaml")))
# Settings of orchestrators and of vLLM, not ours.
OTHERS = {"HOME", "VLLM_ADDITIONAL_ARGS"}


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in FILES:
        for one in yaml.safe_load_all(file.read_text()):
            yield f"{file.name}: {one['kind']}", one


MANIFESTS = dict(manifests())


def containers(manifest: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every pod and container of ours in a manifest, whatever kind it is."""
    spec = manifest["spec"]
    pods = [
        spec.get("template"),
        spec.get("worker"),
        spec if manifest["kind"] == "ClusterServingRuntime" else None,
    ]
    for pod in pods:
        pod = (pod or {}).get("spec", pod)
        for container in (pod or {}).get("containers", ()):
            yield pod or {}, container


def settings(container: dict[str, Any]) -> Settings:
    """The settings that a container's env makes, with templates and references written out as the orchestrator would."""
    filled = {
        "HEAD_ADDRESS": "x-0.x.ns",
        "NODES": "2",
        "NODE_RANK": "0",
        "PIPELINE_PARALLEL": "2",
        "TENSOR_PARALLEL": "1",
    }
    own = {each["name"]: each["value"] for each in container.get("env", ()) if "value" in each}
    own = {name: filled.get(name, one) for name, one in own.items() if name not in OTHERS}
    return load_settings(Environment({name: one for name, one in own.items() if "if .Global" not in one}, {}))


@pytest.mark.parametrize("name", [name for name, one in MANIFESTS.items() if one["kind"] != "Deployment"])
def test_fields(name: str) -> None:
    assert errors(MANIFESTS[name], kubernetes(MINORS[-1])) == []


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("inference-pool.yaml: InferencePool", "spec.endpointPicker", {}, "'endpointPicker' was unexpected"),
        (
            "inference-pool.yaml: InferencePool",
            "spec.targetPorts.0.number",
            "http",
            "'http' is not of type 'integer'",
        ),
        ("inference-pool.yaml: InferencePool", "spec.endpointPickerRef.failureMode", "Open", "is not one of"),
        ("inference-service.yaml: InferenceService", "spec.predictor", None, "is not of type 'object'"),
        ("runtime.yaml: ClusterServingRuntime", "spec.containers.0.readynessProbe", {}, "was unexpected"),
        ("llm-inference-service.yaml: LLMInferenceService", "spec.template.gracePeriod", 1, "was unexpected"),
        ("llm-inference-service.yaml: LLMInferenceService", "status2", {}, "was unexpected"),
    ],
)
def test_mistakes_are_seen(name: str, path: str, value: Any, said: str) -> None:
    changed = copy.deepcopy(MANIFESTS[name])
    *steps, last = path.split(".")
    at: Any = changed
    for step in steps:
        at = at[int(step) if step.isdigit() else step]
    at[last] = value
    found = errors(changed, kubernetes(MINORS[-1]))
    assert any(said in each for each in found), found


def test_comparison_with_the_real_definitions(tmp_path: Path) -> None:
    """What is compared with a project's definitions is seen to differ in each way that it can."""
    spec = {
        "type": "object",
        "required": ["selector", "must"],
        "properties": {
            "selector": {"type": "object", "properties": {"matchLabels": {"type": "object"}}},
            "must": {"type": "string"},
            "targetPorts": {"type": "object"},
            "appProtocol": {"type": "string", "enum": ["http"]},
            "number": {"type": "string"},
        },
    }
    version = {"name": "v1", "schema": {"openAPIV3Schema": {"properties": {"spec": spec}}}}
    crd = {"names": {"kind": "Pool"}, "group": "example.org", "versions": [version]}
    document = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "spec": crd}
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    real = definition(tmp_path / "pool.yaml", "v1")
    assert real["additionalProperties"] is False
    fields = {"selector!": {"matchLabels": "map"}, "must": "string", "targetPorts": ["any"], "gone": "any"}
    fields |= {"appProtocol": "http|h2c", "number": "integer"}
    assert sorted(differences(fields, real, "spec")) == [
        "spec.appProtocol: h2c not among ['http']",
        "spec.gone: not there",
        "spec.must: required there",
        "spec.number: integer here, string there",
        "spec.targetPorts: a list here, object there",
    ]


def test_every_kind_has_a_source() -> None:
    document = yaml.safe_load((ROOT / "tests/data/crds/fields.yaml").read_text())
    assert {one["source"] for one in document["kinds"].values()} == document["sources"].keys()
    assert all(one.keys() == {"url", "version", "commit"} for one in document["sources"].values())
    page = (ROOT / "docs/deploy/kserve.md").read_text()
    assert all(one["version"] in page for one in document["sources"].values())
    assert {f"{one['apiVersion']} {one['kind']}" for one in MANIFESTS.values()} <= kinds().keys() | {
        "apps/v1 Deployment"
    }


OURS = [
    (name, pod, one)
    for name, manifest in MANIFESTS.items()
    for pod, one in containers(manifest)
    if "image" in one
]


@pytest.mark.parametrize(("name", "pod", "container"), OURS, ids=[each[0] for each in OURS])
def test_container(name: str, pod: dict[str, Any], container: dict[str, Any]) -> None:
    """Settings exist, ports and probes are theirs, and what it writes to is mounted and defined."""
    known = {each.upper() for each in Settings.model_fields} | OTHERS
    assert {each["name"] for each in container["env"]} <= known
    found = settings(container)
    declared = {each["containerPort"] for each in container.get("ports", ())}
    assert declared <= {found.port, found.health_port}
    for probe in ("startup", "liveness", "readiness"):
        get = container[f"{probe}Probe"]["httpGet"]
        assert get["port"] in (found.port, found.health_port, "modelserver")
        assert get["path"] in PUBLIC_PATHS | {"/v1/models"}
        assert (get["path"] in ("/livez", "/health")) == (probe != "readiness") or get["path"] == "/v1/models"
        assert get["path"] != "/health" or found.health_route == "vllm"
    if "volumes" in pod:
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts.keys() == {each["name"] for each in pod["volumes"]}
        assert {str(found.cache_dir), "/tmp", "/dev/shm"} <= set(mounts.values())
        secure = {**pod.get("securityContext", {}), **container["securityContext"]}
        assert secure["runAsNonRoot"] and secure["readOnlyRootFilesystem"] and secure["runAsUser"] == 10001
        assert secure["capabilities"] == {"drop": ["ALL"]} and not secure["allowPrivilegeEscalation"]


def test_grace_is_longer_than_the_longest_stop() -> None:
    """Where the manifest gives the grace period; LLMInferenceService keeps KServe's 60 s and its own flag."""
    seen = 0
    pairs = [(pod, settings(one)) for _, pod, one in OURS if "terminationGracePeriodSeconds" in pod]
    predictor = MANIFESTS["inference-service.yaml: InferenceService"]["spec"]["predictor"]
    (runtime,) = MANIFESTS["runtime.yaml: ClusterServingRuntime"]["spec"]["containers"]
    for pod, found in [*pairs, (predictor, settings(runtime))]:
        longest = found.lame_duck_seconds + found.drain_timeout_seconds + LAST_ANSWERS_SECONDS
        assert pod["terminationGracePeriodSeconds"] == longest + STOP_GRACE_SECONDS + 5
        seen += 1
    assert seen == 4
    single = MANIFESTS["llm-inference-service.yaml: LLMInferenceService"]["spec"]["template"]
    sleep = int(single["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    kserve_grace, kserve_flag = 60, 60 - 15 - 5  # shutdownTimeout in KServe's config_merge.go
    assert sleep + kserve_flag + LAST_ANSWERS_SECONDS + STOP_GRACE_SECONDS == kserve_grace


def test_references() -> None:
    """What refers to another object of the same folder names it."""
    pool, route = MANIFESTS["inference-pool.yaml: InferencePool"], MANIFESTS["inference-pool.yaml: HTTPRoute"]
    server = MANIFESTS["model-server.yaml: Deployment"]["spec"]
    assert pool["spec"]["selector"]["matchLabels"].items() <= server["template"]["metadata"]["labels"].items()
    assert pool["spec"]["targetPorts"] == [
        {"number": settings(server["template"]["spec"]["containers"][0]).port}
    ]
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"][0]["name"] == pool["metadata"]["name"]
    model = MANIFESTS["inference-service.yaml: InferenceService"]["spec"]["predictor"]["model"]
    runtime = MANIFESTS["runtime.yaml: ClusterServingRuntime"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {each["name"] for each in runtime["spec"]["supportedModelFormats"]}
