"""The quickstart's lines, run as they stand against the real engine; only the port is the test's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.e2e.conftest import ROOT, Served

pytestmark = pytest.mark.e2e

BLOCKS = re.findall(
    r"^```(\w+)\n(.*?)^```$", (ROOT / "docs/quickstart.md").read_text(), re.DOTALL | re.MULTILINE
)


def ran(command: list[str], served: Served, language: str, word: str) -> str:
    """Run the one block in a language that has a word in it; returns what it prints."""
    [text] = [text for found, text in BLOCKS if found == language and word in text]
    assert "http://127.0.0.1:8000" in text
    script = text.replace("http://127.0.0.1:8000", served.program.url)
    done = subprocess.run([*command, script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python(served: Served) -> None:
    """The SDK's lines name the capital."""
    assert "Tokyo" in ran([sys.executable, "-c"], served, "python", "OpenAI")


@pytest.mark.parametrize(
    ("word", "expected"), [("chat/completions", '"content":'), ("healthz", '"status":"ready"')]
)
def test_curl(served: Served, word: str, expected: str) -> None:
    """Each curl line gets its answer."""
    if shutil.which("curl") is None:
        pytest.skip("NOT TESTED: no curl on PATH")
    assert expected in ran(["bash", "-euc"], served, "bash", word)
