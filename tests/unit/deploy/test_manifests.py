"""deploy/kubernetes: rendered from the chart, plain, and what docs/operate/operations.md says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.deploy.charts import MINORS, ROOT, Helm, engine_of, faults, objects, pod_of
from tools.chart.manifests import MANIFESTS, contents

OLDEST = "1.29"
"""The oldest Kubernetes that the chart takes."""
FILES = [ROOT / f"deploy/kubernetes/{name}.yaml" for name in MANIFESTS]


def test_manifests_are_current(newest_helm: Helm) -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in contents().items() if path.read_text() != text]
    assert stale == [], "run make manifests"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_manifests_are_plain_and_valid(path: Path) -> None:
    """Nothing in them is true of a Helm release alone."""
    text = path.read_text()
    found = objects(text)
    assert len(found) >= 3
    assert "helm" not in text.partition("---")[2].lower()
    assert not [each for each in found if "namespace" in each["metadata"]]
    assert "whenDeleted: Delete" not in text, "who makes a workload anew would lose the weights"
    assert [fault for minor in (OLDEST, *MINORS) for fault in faults(found, minor)] == []


def test_operations_page_has_the_probes() -> None:
    page = (ROOT / "docs/operate/operations.md").read_text()
    found = objects((ROOT / "deploy/kubernetes/vllm-engine.yaml").read_text())
    for name in ("startup", "liveness", "readiness"):
        probe = engine_of(found)[f"{name}Probe"]
        often = f"every {probe['periodSeconds']} s, {probe['failureThreshold']} times"
        assert f"| {name} | `{probe['httpGet']['path']}` | {often} |" in page
    assert pod_of(found)["terminationGracePeriodSeconds"] == 50
