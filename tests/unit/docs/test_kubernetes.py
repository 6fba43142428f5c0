"""deploy/kubernetes: settings, probes and times in the manifest are the program's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.engine.supervisor import STOP_GRACE_SECONDS
from vllm_engine.gateway.drain import LAST_ANSWERS_SECONDS
from vllm_engine.gateway.local.probes import PUBLIC_PATHS

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


def test_settings_and_ports() -> None:
    assert {one["name"] for one in CONTAINER["env"]} <= {name.upper() for name in type(SETTINGS).model_fields}
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {"http": SETTINGS.port, "health": SETTINGS.health_port}


def test_probes() -> None:
    """Each is on the health port; only readiness asks for the engine; docs/operate/operations.md says the same."""
    page = (ROOT / "docs/operate/operations.md").read_text()
    for name, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/healthz")):
        probe = CONTAINER[f"{name}Probe"]
        assert probe["httpGet"] == {"path": path, "port": "health"}
        assert path in PUBLIC_PATHS
        often = f"every {probe['periodSeconds']} s, {probe['failureThreshold']} times"
        assert f"| {name} | `{path}` | {often} |" in page


def test_grace_is_longer_than_the_longest_stop() -> None:
    longest = SETTINGS.lame_duck_seconds + SETTINGS.drain_timeout_seconds + LAST_ANSWERS_SECONDS
    assert POD["terminationGracePeriodSeconds"] == longest + STOP_GRACE_SECONDS + 5


def test_volumes() -> None:
    """What is mounted is defined, and what is written to is not on the read-only root."""
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in POD["volumes"]}
    assert mounts["cache"] == str(SETTINGS.cache_dir)
    assert str(SETTINGS.api_keys_file) == f"{mounts['keys']}/keys"
    assert {"/tmp", "/dev/shm"} <= set(mounts.values())
    (cache,) = [volume for volume in POD["volumes"] if volume["name"] == "cache"]
    claim = MANIFEST["PersistentVolumeClaim"]["metadata"]["name"]
    assert cache["persistentVolumeClaim"]["claimName"] == claim


def test_hardened() -> None:
    hardened = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert CONTAINER["securityContext"] == hardened
    assert (POD["securityContext"]["runAsNonRoot"], POD["automountServiceAccountToken"]) == (True, False)


def test_service_finds_the_pod() -> None:
    deployment, service = MANIFEST["Deployment"]["spec"], MANIFEST["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == labels
    [port] = service["ports"]
    assert port["targetPort"] in {one["name"] for one in CONTAINER["ports"]}
    assert CONTAINER["image"] == "ghcr.io/vllm-engine/vllm-engine:cuda"
