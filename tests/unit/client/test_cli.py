"""The command line: quick to start, with help for everything, and completed by shells."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.support.program import run_cli
from vllm_engine import __version__
from vllm_engine.cli import main
from vllm_engine.cli.command_group import SECTIONS
from vllm_engine.cli.target import url_and_words

HEAVY = ("aiohttp", "asyncio", "fastapi", "importlib.metadata", "pydantic", "rich", "uvloop")


def test_starts_without_what_it_does_not_need() -> None:
    code = "import sys, vllm_engine.cli; print(*(set(sys.argv[1:]) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_command_and_option_has_help() -> None:
    for name, command in main.commands.items():
        assert command.help, name
        without = [each.name for each in command.params if not getattr(each, "help", "")]
        assert without in ([], ["base_url"], ["model"], ["shell"], ["words"]), name


@pytest.mark.parametrize("columns", [20, 80])
def test_the_list_of_commands_is_whole(columns: int) -> None:
    """Each command stands in one section, and its line is wrapped, never cut."""
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted(main.commands)
    with click.Context(main, terminal_width=columns, info_name="vllm-engine") as context:
        text = " ".join(main.get_help(context).split())
    assert "..." not in text.replace("[ARGS]...", "")
    assert "Run the gateway and the engine until Ctrl-C or SIGTERM." in text


def test_version_and_completion(tmp_path: Path) -> None:
    """Each shell gets its own script, bash's is one that bash can read, and what it asks for comes."""
    assert run_cli({}, "--version", cwd=tmp_path).stdout.strip() == f"vllm-engine, version {__version__}"
    for shell in ("zsh", "fish", "bash"):
        script = run_cli({}, "completion", shell, cwd=tmp_path).stdout
        assert f"_VLLM_ENGINE_COMPLETE={shell}_complete" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    asked = {"_VLLM_ENGINE_COMPLETE": "bash_complete", "COMP_WORDS": "vllm-engine d", "COMP_CWORD": "1"}
    done = run_cli(asked, cwd=tmp_path)
    assert done.stdout.split() == ["plain,doctor", "plain,dotenv", "plain,download"]


def test_commands_of_other_programs() -> None:
    """Whoever types one is told ours."""
    for theirs, ours in (
        ("pull", "`vllm-engine download MODEL`"),
        ("run", "serve MODEL"),
        ("prompt", "chat"),
    ):
        done = CliRunner().invoke(main, [theirs, "x"])
        assert (done.exit_code, ours in done.output) == (2, True), done.output


def test_what_is_a_url_and_what_a_question() -> None:
    """Only what can hardly be a question is taken for a URL, complete or not."""
    for words, url, question in (
        (["http://a:1/v1", "Why", "so?"], "http://a:1/v1", "Why so?"),
        (["https://a"], "https://a", ""),
        (["localhost:8000"], "localhost:8000", ""),
        (["127.0.0.1:8000/v1"], "127.0.0.1:8000/v1", ""),
        (["localhost:8000", "hi"], "localhost:8000", "hi"),
        (["gpu.lan:8000/v1", "hi"], "gpu.lan:8000/v1", "hi"),
        (["htp://x"], "htp://x", ""),
        (["ftp://x", "hi"], "ftp://x", "hi"),
        (["localhost:8000 means what?"], None, "localhost:8000 means what?"),
        (["10:30", "is", "what", "in", "Tokyo?"], None, "10:30 is what in Tokyo?"),
        (["Why?"], None, "Why?"),
        ([], None, ""),
    ):
        found = url_and_words(words)
        assert (found[0], " ".join(found[1])) == (url, question), words


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_download_says_what_is_kept(
    number: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to go on, whoever interrupts it."""

    async def never(*_: object) -> None:
        os.kill(os.getpid(), number)
        await asyncio.Event().wait()

    monkeypatch.setattr("vllm_engine.plan.prefetch.prefetch", never)
    monkeypatch.setenv("CACHE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
    try:
        done = CliRunner().invoke(main, ["download", "a/b"])
    finally:
        signal.signal(signal.SIGINT, before)
    kept = f"files that are complete are kept in CACHE_DIR={tmp_path}: run the same command again"
    assert (done.exit_code, kept in done.output) == (status, True), done.output
