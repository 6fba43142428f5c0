"""Commands as people use them: on a terminal, piped, read by programs, and with nobody left to read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.process.conftest import StartProgram
from tests.support.program import Program, free_port, run_cli, running, until
from tests.support.terminal import terminal
from tests.support.watched import Watched
from vllm_engine.client.bench.bench_plan import Plan
from vllm_engine.client.bench.bench_run import run_bench
from vllm_engine.errors import SettingsError, VllmEngineError

KEY = "a-key-for-tests"
SETTINGS = {"API_KEYS": f"me:{KEY}"}
SCENARIO = {"tokens": 5}
OURS = {"API_KEY": KEY}


def chat(text: str, *arguments: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """Pipe a text into `chat`; returns its status, output and errors."""
    done = run_cli(variables or OURS, "chat", *arguments, cwd=cwd, text=text)
    return done.returncode, done.stdout, done.stderr


def smoke(program: Program, cwd: Path, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit status of `smoke --json`, and its checks by id."""
    done = run_cli(variables, "smoke", program.url, "--json", cwd=cwd)
    return done.returncode, {check["id"]: check for check in json.loads(done.stdout)}


def test_chat_in_a_pipe(gateway: Watched, tmp_path: Path) -> None:
    """A question piped in gives the plain answer and nothing else, by URL and by the settings."""
    url = gateway.program.url
    settings = {"HOST": "0.0.0.0", "PORT": str(gateway.port)} | SETTINGS
    for status, answer, _ in (
        chat("Well?", f"{url}/v1", cwd=tmp_path),
        chat("Well?", cwd=tmp_path, **settings),
        chat("", "Well, what?", cwd=tmp_path, **settings),
    ):
        assert (status, "\x1b" in answer) == (0, False)
        assert answer.strip()


def test_chat_in_a_pipe_fails(gateway: Watched, tmp_path: Path) -> None:
    """What goes wrong is one line on stderr and an exit status; half an answer is an error, not a short one."""
    url = gateway.program.url
    for status, part, arguments, variables in (
        (1, "status 404", (url, "--model", "none"), OURS),
        (1, "; set API_KEY to one of the server's keys", (url,), {"API_KEY": "another"}),
        (
            1,
            "; start one with `vllm-engine serve` (`make run` in a checkout), or",
            (f"http://127.0.0.1:{free_port()}",),
            OURS,
        ),
        (2, "BASE_URL", ("localhost:8000",), OURS),
    ):
        ended, answer, said = chat("Well?", *arguments, cwd=tmp_path, **variables)
        assert (ended, answer) == (status, "")
        assert part in said
    assert chat("", url, cwd=tmp_path)[0] == 2
    gateway.change(cut_after_n_chunks=3)
    status, _, said = chat("Well?", url, cwd=tmp_path)
    assert (status, said.startswith("vllm-engine: ")) == (1, True)


def test_conversation(gateway: Watched, tmp_path: Path) -> None:
    """A conversation on a terminal: a key asked for unseen, turns, commands, an answer that is stopped, and the end."""
    with terminal({}, "chat", gateway.program.url, "--max-tokens", "2000", cwd=tmp_path) as shown:
        shown.until("API key for")
        shown.type(f"{KEY}\n")
        shown.until("fake at http://127.0.0.1")
        shown.until("> ")
        assert KEY not in shown.screen
        shown.type("One?\n")
        shown.until("tokens/s")
        shown.until("> ")
        shown.type("/help\n")
        shown.until("Ctrl-C stops an answer.")
        for line, said in (("/system Be long.", "prompt set"), ("/clear", "cleared"), ("/what", "/retry")):
            shown.type(f"{line}\n")
            shown.until(said)
        shown.type("Two \\\nlines?\n")
        shown.until("tokens/s")
        shown.until("> ")
        gateway.change(tokens=5000, tokens_per_second=20)
        shown.type("/retry\n")
        gateway.until_running(1)
        shown.type("\x03")
        shown.until("stopped")
        shown.until("> ")
        gateway.until_running(0)
        shown.press_until("\x03", "once more")
        shown.press_until("\x03", None)
        assert shown.wait() == 0


def test_one_question_on_a_terminal(gateway: Watched, tmp_path: Path) -> None:
    """It is answered, and that is all."""
    with terminal(OURS, "chat", gateway.program.url, "Well,", "what?", cwd=tmp_path) as shown:
        assert shown.wait() == 0
    assert "tokens/s" in shown.screen
    assert "> " not in shown.screen


def test_doctor_beside_a_server_of_ours(gateway: Watched, model_folder: Path, tmp_path: Path) -> None:
    """Its port is not free, and that is well: the server of these settings runs already."""
    python = gateway.program.scenario.parent / "bin/python"
    environ = {"PORT": str(gateway.port), "MODEL_ID": str(model_folder), "ENGINE_PYTHON": str(python)}
    done = run_cli(environ, "doctor", "--local", "--json", cwd=tmp_path)
    checks = {check["id"]: check for check in json.loads(done.stdout)}
    assert checks["port"]["status"] == "ok", done.stdout
    assert "a vllm-engine that runs already" in checks["port"]["sentence"]


def test_smoke(gateway: Watched, tmp_path: Path) -> None:
    """A server that is well passes every check, in lines and in JSON; a missing key, a bad engine do not."""
    ids = ["ready", "version", "models", "chat", "stream", "no model", "bad body"]
    done = run_cli(OURS, "smoke", gateway.program.url, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [re.split(r"  +", line)[1] for line in done.stdout.splitlines()] == ids
    status, checks = smoke(gateway.program, tmp_path)
    assert (status, checks["models"]["status"]) == (1, "fail")
    assert "API_KEY" in checks["models"]["remedy"]
    gateway.change(cut_after_n_chunks=2)
    status, checks = smoke(gateway.program, tmp_path, **OURS)
    assert (status, list(checks)) == (1, ids)
    assert [id for id, check in checks.items() if check["status"] == "fail"] == ["chat", "stream"]


def test_smoke_of_a_failed_start(launch: StartProgram, tmp_path: Path) -> None:
    """A start that failed ends it with 3 and the server's own diagnosis and remedy."""
    program = launch({"startup_log": "failed/disk-full.log", "die_at_start": 1}, ON_FATAL="hold")
    program.until_listening()
    status, checks = smoke(program, tmp_path)
    assert (status, list(checks)) == (3, ["ready"])
    assert "[disk-full]" in checks["ready"]["sentence"]
    assert "make room" in checks["ready"]["remedy"]


LOADS: tuple[dict[str, float], ...] = (
    {"concurrency": 4},
    {"rate": 100.0},
    {"concurrency": 4, "processes": 2},
)


@pytest.fixture
def open_program(start: StartProgram) -> Program:
    """A program without keys."""
    return start({"tokens": 50, "tokens_per_second": 200})


def test_bench(open_program: Program, tmp_path: Path) -> None:
    """Every request is sent once and its tokens are counted, whichever way it is sent; what goes wrong is counted too."""
    program = open_program
    for number, load in enumerate(LOADS):
        plan = Plan(f"{program.url}/v1/", "", requests=20, max_tokens=8, **load)  # type: ignore[arg-type]
        file = tmp_path / f"{number}.jsonl"
        summary, _ = run_bench(plan, file)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert sorted(row["number"] for row in rows) == list(range(20))
        assert (summary.completed, summary.errors, {row["tokens"] for row in rows}) == (20, {}, {8})
        assert summary.latencies_ms["tpot"].median > 0
    here = {"PORT": str(program.port)}
    done = run_cli(here, "bench", "--requests", "2", "--max-tokens", "5", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (told["completed"], told["failed"], told["good"]) == (2, 0, None)
    program.change(cut_after_n_chunks=3)
    broken, _ = run_bench(Plan(program.url, "fake", requests=2))
    refused, _ = run_bench(Plan(program.url, "other", requests=2))
    gone, _ = run_bench(Plan("http://127.0.0.1:1", "fake", requests=2))
    program.change(cut_after_n_chunks=None, first_token_seconds=600)
    late, _ = run_bench(Plan(program.url, "fake", requests=1, timeout_seconds=0.5))
    for summary, said in (
        (broken, "upstream_error"),
        (refused, "status 404"),
        (gone, "cannot connect"),
        (late, "timeout"),
    ):
        assert summary.failed == sum(summary.errors.values())
        assert all(said in error for error in summary.errors)
        assert summary.errors
    with pytest.raises(SettingsError, match="BASE_URL"):
        run_bench(Plan("localhost:8000", "fake", requests=1))
    with pytest.raises(VllmEngineError, match="cannot connect to"):
        run_bench(Plan("http://127.0.0.1:1", "", requests=1))


class Reader:
    """A named pipe's reader, which reads when it is told to."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.text = ""

    def read(self) -> str:
        """Read what there is; returns all that was ever read."""
        with suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1_000_000):
                self.text += data.decode()
        return self.text

    def leave(self) -> None:
        """Never read again, and let the writer know."""
        os.close(self._descriptor)


@contextmanager
def redirected(environ: dict[str, str], folder: Path, redirect: str, *arguments: str) -> Iterator[Program]:
    """Run the program with its standard streams redirected until it is ready; it ends with 0."""
    with running(environ, folder=folder, redirect=redirect, arguments=arguments) as program:
        program.until_ready()
        yield program
        assert program.chat().status_code == 200
        program.send(signal.SIGINT)
        assert program.wait() == 0


def test_reader_stalls(environ: dict[str, str], tmp_path: Path) -> None:
    """A reader that does not read costs lines, which are counted and, once it reads, said; and nothing else."""
    log = tmp_path / "engine.log"
    log.write_bytes((b"x" * 9_999 + b"\n") * 600)
    reader = Reader(tmp_path / "pipe")
    with running(environ, folder=tmp_path, redirect=f">{reader.path} 2>&1") as program:
        program.change(startup_log=str(log))
        program.until_ready()
        assert program.chat().status_code == 200
        assert 100 < program.metric("gateway_log_lines_dropped_total") < 600
        until(lambda: "dropped before this one" in reader.read(), "the count of lines")
        (said,) = re.findall(r" ERROR   gateway\.log: (\d+) line\(s\) were dropped", reader.text)
        assert program.metric("gateway_log_lines_dropped_total") == int(said)
        lines = reader.text.count("gateway.access: POST")
        assert program.chat().status_code == 200
        until(lambda: reader.read().count("gateway.access: POST") == lines + 1, "the newest request's line")
        program.send(signal.SIGTERM)
        assert program.wait() == 0
        assert reader.read().endswith(" stopped\n")


def test_reader_goes(environ: dict[str, str], tmp_path: Path) -> None:
    """Where the reader has gone, as tee has after Ctrl-C, the stop is as orderly and the status 0."""
    reader = Reader(tmp_path / "pipe")
    with redirected(environ, tmp_path, f">{reader.path} 2>&1", "--ask") as program:
        until(lambda: "until Ctrl-C" in reader.read(), "the first answer")
        reader.leave()
        assert program.chat().status_code == 200
    parts = ("Q: ", "A: ", "First token after", "curl -N http://127.0.0.1", "chat http://127.0.0.1")
    assert [part for part in parts if part not in reader.text] == []


@pytest.mark.parametrize("redirect", ["<&- >&- 2>&-", ">/dev/full 2>&1"])
def test_nothing_to_write_to(environ: dict[str, str], tmp_path: Path, redirect: str) -> None:
    """Closed streams and a full disk keep nobody from being served."""
    with redirected(environ, tmp_path, redirect, "--ask"):
        pass


def test_reader_of_a_command_goes(environ: dict[str, str], tmp_path: Path) -> None:
    """`settings | head` says nothing on standard error; a full disk is one line, bad settings end with 2 in any case."""
    for command in ("settings", "completion bash"):
        reader, writer = os.pipe()
        os.close(reader)
        ours = [sys.executable, "-m", "vllm_engine.cli", *command.split()]
        variables = environ | {"PATH": os.environ["PATH"], "HOST": "127.0.0.1"}
        done = subprocess.run(ours, env=variables, stdout=writer, stderr=subprocess.PIPE, cwd=tmp_path)
        os.close(writer)
        assert (done.returncode, done.stderr) == (1, b"")
    with Path("/dev/full").open("w") as full:
        ours = [sys.executable, "-m", "vllm_engine.cli", "completion", "bash"]
        done = subprocess.run(ours, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    said = b"Error: cannot write to standard output (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, said)
    with running({"PORT": "x"}, folder=tmp_path, redirect="2>&-") as program:
        assert program.wait() == 2
