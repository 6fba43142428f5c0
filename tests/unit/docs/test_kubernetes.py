"""deploy/kubernetes: settings, probes and times in the manifest are the program's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.gateway.local.probes import PUBLIC_PATHS
from vllm_engine.serve import _LAST_ANSWERS_SECONDS

ROOT = Path(__file__).parents[3]
MANIFEST: dict[str, dict[str, Any]] = {
    each["kind"]: each
    for each in yaml.safe_load_all((ROOT / "deploy/kubernetes/vllm-engine.yaml").read_text())
}
POD = MANIFEST["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
SETTINGS = load_settings(
    Environment({one["name"]: one["value"] for one in CONTAINER["env"] if "value" in one}, {})
)


def test_settings() -> None:
    """Every variable is one of ours, and the values together are legal."""
    assert {one["name"] for one in CONTAINER["env"]} <= {name.upper() for name in type(SETTINGS).model_fields}
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"http": SETTINGS.port, "health": SETTINGS.health_port}


def test_probes() -> None:
    """Each is on the health port; only readiness asks for the engine; docs/operations.md tells the same."""
    page = (ROOT / "docs/operations.md").read_text()
    for name, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/healthz")):
        probe = CONTAINER[f"{name}Probe"]
        assert probe["httpGet"] == {"path": path, "port": "health"}
        assert path in PUBLIC_PATHS
        often = f"every {probe['periodSeconds']} s, {probe['failureThreshold']} times"
        assert f"| {name} | `{path}` | {often} |" in page


def test_grace() -> None:
    """The pod is given longer than the longest stop."""
    engine_seconds, margin_seconds = 10.0, 5.0
    longest = (
        SETTINGS.lame_duck_seconds + SETTINGS.drain_timeout_seconds + _LAST_ANSWERS_SECONDS + engine_seconds
    )
    assert POD["terminationGracePeriodSeconds"] == longest + margin_seconds


def test_volumes() -> None:
    """What is mounted is defined, CACHE_DIR and the keys among it, and what is written to is no read-only root."""
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in POD["volumes"]}
    assert mounts["cache"] == str(SETTINGS.cache_dir)
    assert str(SETTINGS.api_keys_file) == f"{mounts['keys']}/keys"
    assert {"/tmp", "/dev/shm"} <= set(mounts.values())
    claim = next(volume for volume in POD["volumes"] if volume["name"] == "cache")
    assert (
        claim["persistentVolumeClaim"]["claimName"] == MANIFEST["PersistentVolumeClaim"]["metadata"]["name"]
    )


def test_hardened() -> None:
    """Not root, no capabilities, no escalation, a read-only root, no token of the cluster's."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["automountServiceAccountToken"] is False
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_service_finds_the_pod() -> None:
    """Labels, selectors and ports agree."""
    labels = MANIFEST["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFEST["Service"]["spec"]["selector"] == labels
    assert MANIFEST["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    [port] = MANIFEST["Service"]["spec"]["ports"]
    assert port["targetPort"] in {one["name"] for one in CONTAINER["ports"]}
    assert re.fullmatch(r"[\w.-]+:\d+\.\d+\.\d+", CONTAINER["image"])
