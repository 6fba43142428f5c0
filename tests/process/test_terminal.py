"""`vllm-engine chat` and `smoke` as people use them: on a terminal, piped, and read by programs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import Program, free_port, run_cli, until
from tests.support.terminal import terminal

KEY = "a-key-for-tests"


def piped(text: str, *arguments: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """Run a command with a text piped in; returns its status, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "vllm_engine.cli", *arguments],
        env={"PATH": os.environ["PATH"]} | variables,
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
    )
    return done.returncode, done.stdout, done.stderr


def smoked(program: Program, cwd: Path, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit status of `smoke --json`, and its checks by id."""
    done = run_cli(variables, "smoke", program.url, "--json", cwd=cwd)
    return done.returncode, {check["id"]: check for check in json.loads(done.stdout)}


def test_chat_in_a_pipe(start: StartProgram, tmp_path: Path) -> None:
    """A question piped in gives the plain answer and nothing else, by URL and by the settings."""
    program = start({"tokens": 5})
    program.until_listening()
    by_url = piped("Well?", "chat", f"{program.url}/v1", cwd=tmp_path)
    by_settings = piped("Well?", "chat", cwd=tmp_path, HOST="0.0.0.0", PORT=str(program.port))
    status, answer, _ = by_url
    assert (status, answer) == by_settings[:2]
    assert status == 0
    assert answer.strip()
    assert "\x1b" not in answer


def test_chat_in_a_pipe_fails(start: StartProgram, tmp_path: Path) -> None:
    """What goes wrong is one line on stderr and an exit status."""
    program = start()
    program.until_ready()
    status, answer, said = piped("Well?", "chat", program.url, "--model", "none", cwd=tmp_path)
    assert (status, answer) == (1, "")
    assert "status 404" in said
    assert piped("", "chat", program.url, cwd=tmp_path)[0] == 2
    status, _, said = piped("Well?", "chat", f"http://127.0.0.1:{free_port()}", cwd=tmp_path)
    assert status == 1
    assert "no server answers at" in said
    status, _, said = piped("Well?", "chat", "localhost:8000", cwd=tmp_path)
    assert status == 2
    assert "BASE_URL" in said


def test_chat_broken_off(start: StartProgram, tmp_path: Path) -> None:
    """A stream that breaks off is an error, not a short answer."""
    program = start({"cut_after_n_chunks": 3})
    program.until_ready()
    status, _, said = piped("Well?", "chat", program.url, cwd=tmp_path)
    assert status == 1
    assert "vllm-engine: " in said


def test_conversation(start: StartProgram, tmp_path: Path) -> None:
    """A conversation on a terminal: turns, commands, an error that ends nothing, and Ctrl-D."""
    program = start({"tokens": 5})
    program.until_listening()
    with terminal({}, "chat", program.url, "--system", "Be brief.", cwd=tmp_path) as shown:
        shown.until("fake at http://127.0.0.1")
        shown.until("> ")
        shown.type("One?\n")
        assert "tokens/s" in shown.until("tokens/s")
        shown.until("> ")
        shown.type("/help\n")
        shown.until("Ctrl-C stops an answer.")
        for line, said in (("/system Be long.", "prompt set"), ("/clear", "cleared"), ("/what", "/retry")):
            shown.type(f"{line}\n")
            shown.until(said)
        shown.type("Two \\\nlines?\n")
        shown.until("tokens/s")
        shown.type("/retry\n")
        shown.until("tokens/s")
        shown.until("> ")
        shown.type("\x04")
        assert shown.wait() == 0


def test_ctrl_c_stops_the_answer(start: StartProgram, tmp_path: Path) -> None:
    """Ctrl-C ends an answer, the engine's too, and not the program; twice at the prompt it leaves."""
    program = start({"tokens": 5000, "tokens_per_second": 20})
    program.until_listening()
    with terminal({}, "chat", program.url, "--max-tokens", "2000", cwd=tmp_path) as shown:
        shown.until("> ")
        shown.type("Long?\n")
        until(lambda: program.metric("gateway_in_flight") == 1, "a running answer")
        shown.type("\x03")
        shown.until("stopped")
        shown.until("> ")
        until(lambda: program.metric("gateway_in_flight") == 0, "the end of the engine's work")
        shown.press_until("\x03", "once more")
        shown.press_until("\x03", None)
        assert shown.wait() == 0


def test_key(start: StartProgram, tmp_path: Path) -> None:
    """A key comes from the environment, from our own settings, or from the keyboard, unseen."""
    program = start(API_KEYS=f"me:{KEY}")
    program.until_ready()
    status, _, said = piped("Well?", "chat", program.url, cwd=tmp_path)
    assert status == 1
    assert "status 401" in said
    ours = {"HOST": "127.0.0.1", "PORT": str(program.port), "API_KEYS": f"me:{KEY}"}
    assert piped("Well?", "chat", cwd=tmp_path, **ours)[0] == 0
    assert smoked(program, tmp_path, VLLM_ENGINE_API_KEY=KEY)[0] == 0
    with terminal({}, "chat", program.url, cwd=tmp_path) as shown:
        shown.until("asks for a key")
        shown.type(f"{KEY}\n")
        shown.until("> ")
        assert KEY not in shown.screen
    status, checks = smoked(program, tmp_path)
    assert (status, checks["models"]["status"]) == (1, "fail")
    assert "VLLM_ENGINE_API_KEY" in checks["models"]["remedy"]


def test_smoke(start: StartProgram, tmp_path: Path) -> None:
    """A server that is well passes every check, in lines and in JSON; it is waited for."""
    program = start({"startup_seconds": 2})
    done = run_cli({}, "smoke", program.url, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    ids = ["ready", "version", "models", "chat", "stream", "no model", "bad body"]
    assert [re.split(r"  +", line)[1] for line in done.stdout.splitlines()] == ids
    status, checks = smoked(program, tmp_path)
    assert (status, list(checks)) == (0, ids)
    assert checks["bad body"]["sentence"] == "refused with 400"


def test_smoke_of_a_failed_start(start: StartProgram, tmp_path: Path) -> None:
    """A start that failed ends it with 3 and the server's own diagnosis and remedy."""
    program = start({"startup_log": "failed/disk-full.log", "die_at_start": 1}, ON_FATAL="hold")
    status, checks = smoked(program, tmp_path)
    assert (status, list(checks)) == (3, ["ready"])
    assert "[disk-full]" in checks["ready"]["sentence"]
    assert "make room" in checks["ready"]["remedy"]


def test_smoke_of_a_bad_engine(start: StartProgram, tmp_path: Path) -> None:
    """An engine that breaks off fails those checks, and the exit status is 1."""
    program = start({"cut_after_n_chunks": 2})
    program.until_ready()
    status, checks = smoked(program, tmp_path)
    assert status == 1
    assert [id for id, check in checks.items() if check["status"] == "fail"] == ["chat", "stream"]


def test_bench_json(start: StartProgram, tmp_path: Path) -> None:
    """`bench --json` is one object with figures."""
    program = start({"tokens": 5})
    program.until_ready()
    done = run_cli({}, "bench", program.url, "--requests", "2", "--max-tokens", "5", "--json", cwd=tmp_path)
    summary = json.loads(done.stdout)
    assert (summary["completed"], summary["failed"], summary["good"]) == (2, 0, None)
    assert summary["latencies_ms"]["ttft"]["median"] > 0


def test_tables_on_a_terminal(tmp_path: Path, model_folder: Path) -> None:
    """On a terminal there are tables, and secrets are masked there too."""
    python = make_fake_engine_python(tmp_path / "engine")
    environ = {
        "ENGINE_PYTHON": str(python),
        "MODEL_ID": str(model_folder),
        "CACHE_DIR": str(tmp_path / "cache"),
        "HF_TOKEN": "hf_secret",
    }
    for command in ("settings", "doctor"):
        with terminal(environ, command, cwd=tmp_path) as shown:
            shown.until("└")
            assert shown.wait() in (0, 3)
        assert "hf_secret" not in shown.screen
        assert "┃" in shown.screen
