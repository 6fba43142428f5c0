"""Other people's tools on what we publish: Schemathesis on our routes, Kubernetes' schemas on our manifests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.client_tools import python_with
from tests.support.watched import watched_program

ROOT = Path(__file__).parents[2]
# Read before any fixture hides the machine's environment.
CACHE_DIR = Path(os.environ.get("CACHE_DIR") or ROOT / ".cache")


def succeeds(tool: str, name: str, *arguments: str, cwd: Path) -> None:
    """Run a tool from an environment of its own."""
    command = [str(python_with(tool, CACHE_DIR).with_name(name)), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_own_routes_keep_their_word(tmp_path: Path) -> None:
    """No made-up request to a route of ours is answered with a 5xx, or otherwise than described."""
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"
    with watched_program(tmp_path) as watched:
        tags = ("--include-tag", "server", "--include-tag", "page")
        options = (*tags, "--max-examples", "30", "--checks", checks, "--seed", "1")
        succeeds(
            "schemathesis",
            "schemathesis",
            "run",
            f"{watched.program.url}/openapi.json",
            *options,
            cwd=tmp_path,
        )
        watched.assert_calm()
