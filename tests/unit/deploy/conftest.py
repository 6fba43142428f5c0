"""Both versions of Helm."""

from __future__ import annotations

import pytest

from tests.unit.deploy.charts import Helm, helms


@pytest.fixture(params=["3", "4"])
def helm(request: pytest.FixtureRequest) -> Helm:
    """Each version in turn."""
    return version(request.param)


@pytest.fixture
def newest_helm() -> Helm:
    """Helm 4 alone, for what does not depend on the version."""
    return version("4")


def version(major: str) -> Helm:
    """Return one version, or skip the test, loudly."""
    for found in helms():
        if found.major == major:
            return found
    pytest.skip(f"NOT TESTED: the Helm chart with Helm {major}: run .venv/bin/python -m tools.helm")
