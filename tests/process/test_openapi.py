"""Our own routes against their own description: Schemathesis makes up requests, legal and not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.client_tools import python_with
from tests.support.hostile import watched_program

# Read before any fixture hides the machine's environment.
CACHE_DIR = Path(os.environ.get("CACHE_DIR") or Path(__file__).parents[2] / ".cache")


@pytest.fixture(scope="module")
def schemathesis() -> Path:
    """Return the program, from an environment of its own."""
    return python_with("schemathesis", CACHE_DIR).with_name("schemathesis")


def test_own_routes_keep_their_word(schemathesis: Path, tmp_path: Path) -> None:
    """No made-up request to a route of ours is answered with a 5xx, or otherwise than described."""
    with watched_program(tmp_path) as watched:
        command = [str(schemathesis), "run", f"{watched.program.url}/openapi.json", "--max-examples", "30"]
        command += ["--checks", "not_a_server_error,response_schema_conformance,content_type_conformance"]
        command += ["--seed", "1"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        watched.assert_calm()
