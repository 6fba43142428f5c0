"""The command line itself: quick to start, complete in its help, and completed by shells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.program import run_cli
from vllm_engine import __version__
from vllm_engine.cli import main

HEAVY = ("aiohttp", "fastapi", "pydantic", "rich", "uvloop", "asyncio")


def test_starts_without_what_it_does_not_need() -> None:
    """Help and completion import none of what the commands need."""
    code = "import sys, vllm_engine.cli; print(*(set(sys.argv[1:]) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_version() -> None:
    """`--version` says ours."""
    done = subprocess.run(
        [sys.executable, "-m", "vllm_engine.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"vllm-engine, version {__version__}"


def test_every_command_has_help() -> None:
    """Every command and every option says what it does."""
    for name, command in main.commands.items():
        assert command.help, name
        assert [option.name for option in command.params if not getattr(option, "help", "")] in (
            [],
            ["base_url"],
            ["model"],
            ["shell"],
        ), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    """Each shell gets a script of its own; bash's is one that bash can read."""
    done = subprocess.run(
        [sys.executable, "-m", "vllm_engine.cli", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"_VLLM_ENGINE_COMPLETE={shell}_complete" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


def test_completes(tmp_path: Path) -> None:
    """What the script asks for comes: commands that begin so."""
    asked = {"_VLLM_ENGINE_COMPLETE": "bash_complete", "COMP_WORDS": "vllm-engine d", "COMP_CWORD": "1"}
    done = run_cli(asked, cwd=tmp_path)
    assert done.stdout.split() == ["plain,doctor", "plain,dotenv", "plain,download"]
