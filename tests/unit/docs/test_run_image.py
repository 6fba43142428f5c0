"""Which of this machine's variables run_image.sh gives to the container."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from vllm_engine.config.other_engines import SAME

ROOT = Path(__file__).parents[3]
(FUNCTION,) = re.findall(
    r"^is_ours\(\) \{$.*?^\}$", (ROOT / "scripts/run_image.sh").read_text(), re.MULTILINE | re.DOTALL
)


def is_given(name: str) -> bool:
    """Whether the container gets this variable."""
    script = f"root=$1 mounted=' ' flags=''\n{FUNCTION}\nis_ours \"$2\""
    return subprocess.run(["/bin/sh", "-c", script, "sh", str(ROOT), name], check=False).returncode == 0


@pytest.mark.parametrize(("theirs", "ours"), SAME.items())
def test_names_of_other_engines(theirs: str, ours: str) -> None:
    """As ours of the same meaning: the address and the cache are those of this machine, the rest is meant for it."""
    assert is_given(theirs) is (ours not in ("HOST", "CACHE_DIR"))
    assert is_given(theirs) is is_given(ours)


@pytest.mark.parametrize("name", ["PATH", "HOME", "API_KEY", "SSH_AUTH_SOCK", "DB_PASSWORD"])
def test_what_is_for_others(name: str) -> None:
    """Nothing else of this machine's gets into it, its secrets least of all."""
    assert not is_given(name)
