"""deploy/kubernetes against Kubernetes' own schemas, the oldest and the newest that the validator has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.client_tools import python_with

ROOT = Path(__file__).parents[2]
# Read before any fixture hides the machine's environment.
CACHE_DIR = Path(os.environ.get("CACHE_DIR") or ROOT / ".cache")
IS_WANTED = os.environ.get("TEST_KUBERNETES") == "1"


@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_manifests(version: str) -> None:
    """No unknown field, no wrong type."""
    if not IS_WANTED:
        pytest.skip(
            "NOT TESTED: manifests against Kubernetes' schemas; TEST_KUBERNETES=1 installs them (23 MB)"
        )
    program = python_with("kubernetes", CACHE_DIR).with_name("kubernetes-validate")
    manifests = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
    command = [str(program), "--strict", "-k", version, *map(str, manifests)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert manifests
