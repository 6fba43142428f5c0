"""The installed vLLM is inside as the launcher of both frontends uses it; else the failure says what has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.vllm_internals import differences

pytestmark = pytest.mark.e2e


def test_vllm_is_as_the_launcher_uses_it(engine_python: Path) -> None:
    [site] = sorted(engine_python.parents[1].glob("lib/*/site-packages"))
    assert differences(site) == []
