"""The fake launcher: which frontends the scenario allows, in the file that ours writes, and the fake's start."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.fake.fake_main import main as fake_main
from tests.support.fake.fake_main import scenario_path
from tests.support.fake.fake_scenarios import load_scenario


def main(argv: Sequence[str]) -> None:
    """Be `both RUST_SOCKET serve ...`."""
    rust_socket, arguments = Path(argv[1]), list(argv[2:])
    reason = load_scenario(scenario_path()).not_both
    frontends = ["python"] if reason else ["python", "rust"]
    file = rust_socket.with_name("frontends.json")
    file.write_text(json.dumps({"frontends": frontends, "reason": reason}), encoding="utf-8")
    sys.argv = [sys.argv[0], *arguments]
    if reason:
        os.write(2, f"WARNING the Python frontend serves alone: {reason}\n".encode())
    fake_main(None if reason else rust_socket)
