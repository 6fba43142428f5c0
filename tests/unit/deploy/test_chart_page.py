"""docs/deploy/kubernetes.md: its commands do what they say with the real Helm, its values are values of the chart."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import yaml

from tests.support.doc_blocks import ROOT, blocks
from tests.unit.deploy.charts import Helm, engine_of, env_of, objects, one
from vllm_engine.gateway.policy.auth import parse_keys

PAGE = blocks(ROOT / "docs/deploy/kubernetes.md")
# Without a cluster nothing can be installed; what would be is written to rendered/NAME.
HELM = """#!/bin/sh
case $1 in
    install) name=$2; shift; exec {helm} template "$@" > "rendered/$name" ;;
    test) test -s "rendered/$2" ;;
    *) exec {helm} "$@" ;;
esac
"""
KUBECTL = '#!/bin/sh\necho "$*" >> kubectl.calls\n'


def test_commands(newest_helm: Helm, tmp_path: Path) -> None:
    """In the page's order, in a shell where an unset variable is a mistake."""
    (tmp_path / "rendered").mkdir()
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    for name, script in (("helm", HELM.format(helm=newest_helm.binary)), ("kubectl", KUBECTL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    script = "\n".join(block.text for block in PAGE if block.language == "bash")
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "IMAGE_REPO": "registry.example.com/engine"}
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    qwen = objects((tmp_path / "rendered/qwen").read_text())
    calls = (tmp_path / "kubectl.calls").read_text()
    assert f"rollout status deployment/{one(qwen, 'Deployment')['metadata']['name']} " in calls
    secret = calls.partition("create secret generic ")[2].split()
    references = [each.get("valueFrom") for each in engine_of(qwen)["env"]]
    assert {"secretKeyRef": {"name": secret[0], "key": "hf-token"}} in references
    assert "--from-file=keys" in secret
    (key,) = parse_keys((tmp_path / "keys").read_text())
    assert key.name == "me"
    demo = objects((tmp_path / "rendered/demo").read_text())
    assert env_of(demo)["MODEL_ID"] == "bundled:smollm2-135m-instruct"
    assert objects((tmp_path / "engine.yaml").read_text())


def test_values(newest_helm: Helm) -> None:
    (given,) = [yaml.safe_load(block.text) for block in PAGE if "settings:" in block.text]
    env = env_of(newest_helm.render(given))
    assert {name: env[name] for name in given["settings"]} == {
        name: json.dumps(value) for name, value in given["settings"].items()
    }
