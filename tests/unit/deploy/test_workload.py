"""What the chart makes of values: the pod, its secrets and caches, probes and times, as the program understands them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.charts import (
    CHART,
    EXAMPLES,
    MINORS,
    Helm,
    engine_of,
    env_of,
    faults,
    objects,
    one,
    pod_of,
)
from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.engine.supervisor import STOP_GRACE_SECONDS
from vllm_engine.gateway.drain import LAST_ANSWERS_SECONDS
from vllm_engine.gateway.local.probes import PUBLIC_PATHS

HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
KEY = "a-long-enough-key"


@pytest.mark.parametrize("example", [None, *EXAMPLES], ids=lambda path: path.stem if path else "default")
def test_lint_and_schemas(helm: Helm, example: Any) -> None:
    """Each example passes the linter and Kubernetes' schemas."""
    files = ["--values", example] if example else []
    helm("lint", "--strict", CHART, *files)
    found = helm.render({}, *files)
    assert [fault for minor in MINORS for fault in faults(found, minor)] == []


def test_settings_reach_the_program(helm: Helm) -> None:
    """Numbers are not written as 3.3554432e+07, nor switches as Python's; the program reads what was meant."""
    found = helm.render(
        {
            "model": {"id": "org/m", "revision": "main", "servedNames": ["a", "b"], "maxLength": 1_000_000},
            "parallel": {"tensor": 2},
            "settings": {
                "MAX_BODY_BYTES": 33_554_432,
                "GPU_MEMORY_UTILIZATION": 0.85,
                "ENABLE_UI": False,
                "AUTO_FIT": True,
                "DTYPE": "float16",
            },
        }
    )
    env = env_of(found)
    settings = load_settings(Environment(env, {}))
    assert env.keys() <= {name.upper() for name in type(settings).model_fields}
    assert (settings.model_id, settings.model_revision, settings.served_names) == (
        "org/m",
        "main",
        ("a", "b"),
    )
    assert (settings.max_model_len, settings.tensor_parallel, settings.max_body_bytes) == (
        1_000_000,
        2,
        33_554_432,
    )
    assert (settings.gpu_memory_utilization, settings.enable_ui, settings.auto_fit) == (0.85, False, True)
    ports = {port["name"]: port["containerPort"] for port in engine_of(found)["ports"]}
    assert ports == {"http": settings.port, "health": settings.health_port}


def test_probes(newest_helm: Helm) -> None:
    """Each is on the health port, which needs no key; only readiness asks for the engine."""
    container = engine_of(newest_helm.render({"tls": {"existingSecret": "certificate"}}))
    for name, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/healthz")):
        assert container[f"{name}Probe"]["httpGet"] == {"path": path, "port": "health"}
        assert path in PUBLIC_PATHS


@pytest.mark.parametrize(
    ("values", "hook"),
    [
        ({}, 0),
        ({"shutdown": {"lameDuckSeconds": 60, "drainTimeoutSeconds": 600}}, 0),
        ({"lifecycle": {"preStop": {"sleep": {"seconds": 15}}}}, 15),
        (
            {"shutdown": {"extraGraceSeconds": 9}, "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}},
            9,
        ),
    ],
)
def test_grace_is_longer_than_the_longest_stop(newest_helm: Helm, values: dict[str, Any], hook: int) -> None:
    found = newest_helm.render(values)
    settings = load_settings(Environment(env_of(found), {}))
    longest = settings.lame_duck_seconds + settings.drain_timeout_seconds + LAST_ANSWERS_SECONDS
    assert pod_of(found)["terminationGracePeriodSeconds"] == hook + longest + STOP_GRACE_SECONDS + 5


@pytest.mark.parametrize(
    ("values", "gpus", "tag"),
    [
        ({}, {"nvidia.com/gpu": 1}, "cuda"),
        ({"parallel": {"tensor": 8}}, {"nvidia.com/gpu": 8}, "cuda"),
        ({"parallel": {"tensor": "auto"}, "gpu": {"count": 4}}, {"nvidia.com/gpu": 4}, "cuda"),
        ({"gpu": {"resource": "amd.com/gpu"}, "image": {"tag": "rocm"}}, {"amd.com/gpu": 1}, "rocm"),
        ({"gpu": {"count": 0}}, {}, "cpu"),
    ],
)
def test_gpus(newest_helm: Helm, values: dict[str, Any], gpus: dict[str, int], tag: str) -> None:
    container = engine_of(newest_helm.render(values))
    assert container["resources"] == {
        "requests": {"cpu": 2, "memory": "8Gi", **gpus},
        "limits": {"memory": "24Gi", **gpus},
    }
    assert container["image"] == f"ghcr.io/vllm-engine/vllm-engine:{tag}"


def test_secrets_stand_in_secrets_alone(newest_helm: Helm) -> None:
    """Keys are mounted, since the program reads them again; the token's change makes new pods."""
    hashed = f"sha256:{'0' * 64}"
    found = newest_helm.render({"apiKeys": {"keys": {"b": hashed, "a": KEY}}, "hfToken": {"value": "hf_abc"}})
    secret, smoke = one(found, "Secret", "vllm-engine"), one(found, "Secret", "-smoke")
    assert secret["stringData"] == {"hf-token": "hf_abc", "keys": f"a:{KEY}\nb:{hashed}\n"}
    assert smoke["stringData"] == {"api-key": KEY}
    assert smoke["metadata"]["annotations"]["helm.sh/hook"] == "test"
    others = str([each for each in found if each["kind"] != "Secret"])
    assert KEY not in others
    assert "hf_abc" not in others
    assert env_of(found)["API_KEYS_FILE"] == "/run/secrets/vllm-engine/keys"
    other = newest_helm.render({"apiKeys": {"keys": {"c": KEY}}, "hfToken": {"value": "hf_abc"}})
    assert one(found, "Deployment") == one(other, "Deployment")
    token = newest_helm.render({"apiKeys": {"keys": {"b": hashed, "a": KEY}}, "hfToken": {"value": "hf_def"}})
    assert one(found, "Deployment") != one(token, "Deployment")


def test_existing_secrets(newest_helm: Helm) -> None:
    found = newest_helm.render(
        {
            "apiKeys": {"existingSecret": "mine", "key": "lines"},
            "hfToken": {"existingSecret": "mine", "key": "token", "optional": True},
            "tls": {"existingSecret": "certificate"},
        }
    )
    assert not [each for each in found if each["kind"] == "Secret"]
    volumes = {each["name"]: each for each in pod_of(found)["volumes"]}
    assert volumes["keys"]["secret"]["secretName"] == "mine"
    assert volumes["keys"]["secret"]["items"] == [{"key": "lines", "path": "keys"}]
    assert volumes["tls"]["secret"]["secretName"] == "certificate"
    (token,) = [each for each in engine_of(found)["env"] if each["name"] == "HF_TOKEN"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": "mine", "key": "token", "optional": True}
    (smoke,) = one(found, "Pod")["spec"]["containers"]
    assert smoke["args"][1] == "https://vllm-engine:8000"


@pytest.mark.parametrize(
    ("values", "volume", "claims"),
    [
        ({}, {"persistentVolumeClaim": {"claimName": "vllm-engine-cache"}}, 1),
        ({"cache": {"existingClaim": "m"}}, {"persistentVolumeClaim": {"claimName": "m"}}, 0),
        ({"cache": {"type": "emptyDir"}}, {"emptyDir": {}}, 0),
        (
            {"cache": {"type": "emptyDir", "emptyDir": {"sizeLimit": "9Gi"}}},
            {"emptyDir": {"sizeLimit": "9Gi"}},
            0,
        ),
        (
            {"cache": {"type": "hostPath", "hostPath": {"path": "/m"}}},
            {"hostPath": {"path": "/m", "type": "Directory"}},
            0,
        ),
        ({"workload": {"kind": "StatefulSet"}}, None, 0),
    ],
)
def test_cache(newest_helm: Helm, values: dict[str, Any], volume: Any, claims: int) -> None:
    """What is mounted is defined, and what is written to is not on the read-only root."""
    found = newest_helm.render(values)
    volumes = {each.pop("name"): each for each in pod_of(found)["volumes"]}
    assert volumes.get("cache") == volume
    made = [each for each in found if each["kind"] == "PersistentVolumeClaim"]
    assert len(made) == claims
    assert all(each["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"} for each in made)
    templates = one(found, "StatefulSet")["spec"]["volumeClaimTemplates"] if volume is None else []
    names = volumes.keys() | {each["metadata"]["name"] for each in templates}
    mounts = {each["name"]: each["mountPath"] for each in engine_of(found)["volumeMounts"]}
    assert mounts.keys() == names
    assert {"/cache", "/tmp", "/dev/shm"} == set(mounts.values())


def test_hardened(newest_helm: Helm) -> None:
    found = newest_helm.render({})
    pod = pod_of(found)
    assert engine_of(found)["securityContext"] == HARDENED
    assert pod["securityContext"]["runAsNonRoot"]
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    platform = pod_of(newest_helm.render({"arbitraryUid": True}))["securityContext"]
    assert platform.keys() == {"runAsNonRoot", "fsGroupChangePolicy", "seccompProfile"}


@pytest.mark.parametrize(
    ("values", "strategy"),
    [
        ({}, {"type": "Recreate"}),
        (
            {"replicas": 3, "cache": {"accessModes": ["ReadWriteMany"]}},
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
        ),
        ({"workload": {"updateStrategy": {"type": "RollingUpdate"}}}, {"type": "RollingUpdate"}),
    ],
)
def test_strategy(newest_helm: Helm, values: dict[str, Any], strategy: Any) -> None:
    """One engine stops before the next starts on its GPU; several are replaced one after another."""
    assert one(newest_helm.render(values), "Deployment")["spec"]["strategy"] == strategy


def test_services_find_the_pods(newest_helm: Helm) -> None:
    found = newest_helm.render({"workload": {"kind": "StatefulSet"}, "podLabels": {"a": "b"}})
    workload = one(found, "StatefulSet")["spec"]
    selector = workload["selector"]["matchLabels"]
    assert selector.items() <= workload["template"]["metadata"]["labels"].items()
    headless = one(found, "Service", "-headless")
    assert headless["metadata"]["name"] == workload["serviceName"]
    ports = {each["name"] for each in engine_of(found)["ports"]}
    for service in (headless, one(found, "Service", "vllm-engine")):
        assert service["spec"]["selector"] == selector
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports
    smoke = one(found, "Pod")["metadata"]["labels"]
    assert not selector.items() <= smoke.items()


def test_as_a_part_of_another_chart(helm: Helm, tmp_path: Path) -> None:
    """What `helm package` packs is a part of a chart that shares values with all its parts."""
    helm("package", CHART, "--destination", tmp_path / "parent/charts")
    chart = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
    (tmp_path / "parent/Chart.yaml").write_text(json.dumps(chart))
    given = {"global": {"region": "eu"}, "vllm-engine": {"model": {"id": "org/m"}}}
    text = helm("template", "all", tmp_path / "parent", "--values", "-", given=json.dumps(given))
    assert env_of(objects(text))["MODEL_ID"] == "org/m"
    assert one(objects(text), "Deployment")["metadata"]["name"] == "all-vllm-engine"


@pytest.mark.parametrize("keys", [{}, {"apiKeys": {"existingSecret": "keys"}}])
def test_notes(newest_helm: Helm, keys: dict[str, Any]) -> None:
    """What Helm prints after an installation: where the API is, and a warning where anybody may use it."""
    values = json.dumps({"service": {"port": 80}, "workload": {"kind": "StatefulSet"}, **keys})
    options = ("--dry-run=client", "--namespace", "ai", "--values", "-")
    notes = newest_helm("install", "qwen", CHART, *options, given=values).partition("NOTES:")[2]
    assert "rollout status statefulset/qwen-vllm-engine" in notes
    assert "http://qwen-vllm-engine.ai:80/v1" in notes
    assert ("WARNING: no API keys" in notes) == (not keys)


def test_names_stay_within_what_kubernetes_takes(newest_helm: Helm) -> None:
    found = newest_helm.render({"workload": {"kind": "StatefulSet"}}, name="a" * 53)
    assert all(len(each["metadata"]["name"]) <= 63 for each in found)
    assert len({(each["kind"], each["metadata"]["name"]) for each in found}) == len(found)


def test_words_and_numbers_that_yaml_reads_otherwise(newest_helm: Helm) -> None:
    """Names of digits stay texts, large numbers whole, and a label given twice stands there once."""
    found = newest_helm.render(
        {
            "apiKeys": {"existingSecret": "1", "key": "2"},
            "hfToken": {"existingSecret": "3", "key": "4"},
            "tls": {"existingSecret": "5"},
            "cache": {"existingClaim": "6", "size": "7"},
            "serviceAccount": {"name": "8"},
            "priorityClassName": "9",
            "smokeTest": {"apiKeySecret": "10", "apiKeySecretKey": "11", "waitSeconds": 2_000_000},
            "workload": {"progressDeadlineSeconds": 3_000_000},
            "shutdown": {"drainTimeoutSeconds": 4_000_000},
            "commonLabels": {"team": "a"},
            "podLabels": {"team": "b"},
        }
    )
    assert [fault for minor in MINORS for fault in faults(found, minor)] == []
    deployment = one(found, "Deployment")["spec"]
    assert deployment["progressDeadlineSeconds"] == 3_000_000
    assert pod_of(found)["terminationGracePeriodSeconds"] == 4_000_025
    assert deployment["template"]["metadata"]["labels"]["team"] == "b"
    assert one(found, "Pod")["spec"]["containers"][0]["args"][-1] == "--wait=2000000"
