"""`serve` on a terminal shows one clean screen: what happens, the answer, lines to paste; off a terminal the log."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.conftest import StartProgram
from tests.support.program import Program, free_port
from tests.support.terminal import Terminal, terminal


def plain(screen: str) -> str:
    """Return what was printed without its colours and cursor movements, each frame of the bar on a line."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).replace("\r", "\n")


@contextmanager
def serving(
    environ: dict[str, str], folder: Path, *arguments: str, stderr: Path | None = None
) -> Iterator[tuple[Terminal, Program]]:
    """Run `serve` on a terminal."""
    port = free_port()
    ours = {"PORT": str(port), "HOST": "127.0.0.1", "CACHE_DIR": str(folder / "cache"), "STANDBY": "0"}
    with terminal(ours | environ, "serve", *arguments, cwd=folder, stderr=stderr) as shown:
        program = Program(shown.process, port, folder / "none", environ["ENGINE_PYTHON"])
        with program.client:
            yield shown, program


@pytest.mark.parametrize("is_cut", [True, False])
def test_serve_on_a_terminal(environ: dict[str, str], tmp_path: Path, is_cut: bool) -> None:
    """One clean screen: what is done, how long, the answer, lines to paste; no line of the log, but warnings.

    Ctrl-S during the start holds nothing else; Ctrl-C is answered at once.
    """
    with serving(environ | {"API_KEY": "a-clients-key"}, tmp_path, "--ask") as (shown, program):
        program.change(startup_seconds=2, tokens=200 if is_cut else 20, tokens_per_second=200)
        shown.until("importing vLLM")
        shown.type("\x13")
        program.until_ready()
        shown.type("\x11")
        shown.until("until Ctrl-C")
        assert all(program.chat().status_code == 200 for _ in range(3))
        shown.type("\x03")
        shown.until("Stopping …")
        assert shown.wait() == 0
    text = plain(shown.screen)
    assert (" … (stopped at 100 tokens)" in text) == is_cut
    assert re.search(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] +importing vLLM +\d+ s +━", text)
    assert not re.search(" INFO |gateway.access|engine: ", text)
    assert text.count(" WARNING ") == 1, "the client's key in the server's environment, and nothing else"
    order = ["Starting ", "Ready after ", "\n  Page   http://127.0.0.1:", "\n  API    ", "\nQ: Why", "\nA: ", "\n\nFirst token",
             "curl -N http://127.0.0.1:", "vllm-engine chat http://127.0.0.1:", "Serving at ", "Stopping …", "Stopped."]  # fmt: skip
    assert sorted(order, key=text.index) == order
    command = text[text.index("curl -N") : text.index("\n\nvllm-engine chat")]
    words = shlex.split(command.replace("\\\n", " "))
    body = json.loads(words[words.index("-d") + 1])
    assert (body["stream"], body["model"], body["max_tokens"]) == (True, "fake", 256)


def test_a_verbose_terminal(environ: dict[str, str], tmp_path: Path) -> None:
    """With -v the log stays whole above the bar, and the answer shares no line with it."""
    with serving(environ, tmp_path, "-v", "--ask") as (shown, program):
        program.change(startup_seconds=1, tokens=100, tokens_per_second=50)
        shown.until("\nA: ")
        assert program.chat(max_tokens=1).status_code == 200
        shown.until("until Ctrl-C")
        shown.type("\x03")
        assert shown.wait() == 0
    # The terminal itself shows ^C where its cursor stands.
    lines = [line.removeprefix("^C") for line in plain(shown.screen).split("\n") if "INFO" in line]
    assert any("gateway.supervisor: importing took" in line for line in lines)
    assert any("engine: " in line for line in lines)
    assert any("gateway.access: POST" in line for line in lines)
    assert all(re.match(r"\d\d:\d\d:\d\d INFO ", line) for line in lines)


@pytest.mark.parametrize(
    "variables", [{"TERM": "dumb"}, {"NO_COLOR": "1", "COLUMNS": "30", "PYTHONIOENCODING": "ascii"}]
)
def test_a_poor_terminal(environ: dict[str, str], tmp_path: Path, variables: dict[str, str]) -> None:
    """One that cannot move its cursor gets a line for each phase; a narrow one without colours gets no bar."""
    with serving(environ | variables, tmp_path) as (shown, program):
        program.change(startup_seconds=1)
        shown.until("until Ctrl-C")
        shown.type("\x03")
        assert shown.wait() == 0
    if "TERM" in variables:
        assert "\x1b" not in shown.screen
        assert re.search(r"\n +\d+\.\d s  importing vLLM\r\n", shown.screen)
    else:
        assert not re.search(r"\x1b\[\d*;?3\dm", shown.screen)
        assert "importing vLLM" in shown.screen
        assert shown.screen.isascii()
        frames = [line for line in plain(shown.screen).split("\n") if "importing vLLM" in line]
        assert max(map(len, frames)) <= 30


def test_ctrl_c_while_it_imports(environ: dict[str, str], tmp_path: Path) -> None:
    """It is answered at once, and the end is a clean one: no line of the bar stays, the cursor is back."""
    with serving(environ, tmp_path) as (shown, program):
        program.change(startup_seconds=600)
        shown.until("importing vLLM")
        shown.type("\x03")
        shown.until("Stopping …")
        assert shown.wait() == 0
    assert shown.screen.count("\x1b[?25l") == shown.screen.count("\x1b[?25h") == 1
    assert plain(shown.screen).rstrip().endswith("Stopped.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_its_own_question_is_dropped(environ: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    """A stop does not wait for the answer to the program's own question, and nothing of it follows."""
    with serving(environ | {"DRAIN_TIMEOUT_SECONDS": "600"}, tmp_path, "--ask") as (shown, program):
        program.change(tokens=100, tokens_per_second=1)
        shown.until("\nA: ")
        program.send(number)
        assert shown.wait() == 0
    text = plain(shown.screen)
    lines = text[text.index("Stopping …") :].split()
    assert " ".join(lines) == "Stopping … (Ctrl-C once more ends running requests at once) Stopped."
    assert "First token" not in text


def test_only_the_log_is_redirected(environ: dict[str, str], tmp_path: Path) -> None:
    """`serve 2>log` shows the screen, and the file has every line, as JSON."""
    log = tmp_path / "log"
    with serving(environ, tmp_path, stderr=log) as (shown, _):
        shown.until("until Ctrl-C")
        shown.type("\x03")
        assert shown.wait() == 0
    assert "Ready after" in shown.screen
    messages = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert any(message.startswith("importing took") for message in messages)


def test_a_start_that_fails_on_a_terminal(environ: dict[str, str], tmp_path: Path) -> None:
    """The engine's last lines, which were hidden, are shown, and the diagnosis is the end."""
    with serving(environ, tmp_path) as (shown, program):
        program.change(startup_log="failed/disk-full.log", die_at_start=1)
        assert shown.wait() == 3
    assert "engine's last lines | " in shown.screen
    assert "[disk-full]" in plain(shown.screen).rstrip().split("\n")[-1]


def test_off_a_terminal_the_log_is_all(start: StartProgram) -> None:
    """No line of progress beside the log's, and the answer stands on lines of its own."""
    program = start({"tokens": 5}, "--ask")
    program.until_logged("until Ctrl-C")
    lines = program.log().splitlines()
    assert [line for line in lines if re.match(r" *[\d.]+ s  |Starting |Ready after ", line)] == []
    (answer,) = [line for line in lines if line.startswith("A: ")]
    assert "INFO" not in answer
    assert any(line.startswith("curl -N ") for line in lines)
