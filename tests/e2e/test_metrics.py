"""The list of vLLM's metrics that the dashboard, the rules and docs/metrics.md are held to is that of the real vLLM."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from openai import OpenAI

from tests.e2e.conftest import MODEL, ROOT, Served

pytestmark = pytest.mark.e2e


def test_known_metrics(served: Served, client: OpenAI) -> None:
    """Name, type and labels of each metric are as in deploy/observability/vllm-metrics.json."""
    for _ in client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, stream=True):
        pass
    script = ROOT / "tools/vllm_metrics.py"
    done = subprocess.run([sys.executable, script, served.program.url], capture_output=True, check=True)
    real = json.loads(done.stdout)
    known = json.loads((ROOT / "deploy/observability/vllm-metrics.json").read_text())
    assert real["vllm"] == known["vllm"]
    assert {name: (one["type"], one["labels"]) for name, one in real["metrics"].items()} == {
        name: (one["type"], one["labels"]) for name, one in known["metrics"].items()
    }
