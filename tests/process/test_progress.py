"""A start as users watch it: over HTTP, in the log, on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import Program, free_port, running, until

PHASES = ["preparing", "importing", "loading weights", "profiling memory", "warming up"]


def until_ready(program: Program) -> list[dict[str, Any]]:
    """Return what /healthz said until readiness."""
    seen: list[dict[str, Any]] = []

    def ready() -> bool:
        if (body := program.health()) is not None:
            seen.append(body)
        return bool(seen) and seen[-1]["status"] == "ready"

    program.until_listening()
    until(ready, "readiness")
    return seen


def test_each_phase_has_its_line(start: StartProgram) -> None:
    """Every phase gets one line with its duration, in order, also where it lasts a millisecond."""
    program = start(LOG_FORMAT="json")
    program.until_ready()
    records = [json.loads(line) for line in program.log().splitlines()]
    lines = [record for record in records if "seconds" in record]
    assert [line["phase"] for line in lines] == PHASES
    assert {line["source"] for line in lines} == {"gateway.supervisor"}
    assert all(re.fullmatch(r"[a-z ]+ took \d+\.\d s(; now [a-z ]+)?", line["message"]) for line in lines)


def test_first_start_has_no_estimate(start: StartProgram) -> None:
    """Nothing is claimed where nothing is known; a ready engine is wholly started."""
    seen = until_ready(start({"startup_seconds": 3}))
    keys = ("fraction", "estimate_seconds", "remaining_seconds", "download")
    before = [[body[key] for key in keys] for body in seen if body["status"] != "ready"]
    assert before
    assert all(values == [None] * 4 for values in before)
    assert (seen[-1]["fraction"], seen[-1]["phase"]) == (1.0, "ready")


def test_second_start_has_an_estimate(start: StartProgram, tmp_path: Path) -> None:
    """The second start of a configuration knows how long it takes; another configuration does not."""
    starts = tmp_path / "cache/starts.json"
    starts.parent.mkdir()
    program = start({"startup_seconds": 3})
    program.until_ready()
    until(starts.exists, "the record of the start")
    program.close()
    kept = json.loads(starts.read_text())["starts"]
    (phases,) = kept.values()
    assert list(phases) == PHASES
    # As if it had taken long, so that a busy machine cannot be later than the estimate.
    starts.write_text(
        json.dumps({"version": 1, "starts": {next(iter(kept)): phases | {"warming up": 100.0}}})
    )
    python = next(tmp_path.glob("engine/bin/python"))
    environ = {"ENGINE_PYTHON": str(python), "MODEL_ID": str(tmp_path / "model"), "SERVED_MODEL_NAME": "fake"}
    with running(environ, folder=tmp_path) as again:
        seen = [body for body in until_ready(again) if body["estimate_seconds"] is not None]
    assert seen
    assert all(body["estimate_seconds"] >= 100 for body in seen)
    assert all(0 <= body["fraction"] < 0.5 and body["remaining_seconds"] > 50 for body in seen)
    with running(environ | {"DTYPE": "float16"}, folder=tmp_path) as other:
        assert not [body for body in until_ready(other) if body["estimate_seconds"] is not None]


def test_damaged_history(start: StartProgram, tmp_path: Path) -> None:
    """A damaged record is one warning, no more."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/starts.json").write_text("{")
    program = start()
    program.until_ready()
    assert "gateway.history: " in program.log()


def on_terminal(folder: Path, model: Path, until_text: str, **variables: str) -> str:
    """Run `serve` on a pseudo-terminal until it shows a text; returns all that was shown."""
    ours, theirs = pty.openpty()
    environ = {
        "PATH": os.environ["PATH"],
        "ENGINE_PYTHON": str(make_fake_engine_python(folder / "engine", {"startup_seconds": 2})),
        "MODEL_ID": str(model),
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
        "CACHE_DIR": str(folder / "cache"),
        "TMPDIR": str(folder),
        "TERM": "xterm-256color",
        "COLUMNS": "120",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "vllm_engine.cli", "serve"],
        env=environ | variables,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        start_new_session=True,
    )
    os.close(theirs)
    shown: list[str] = []

    def read() -> None:
        while True:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:
                return
            shown.append(chunk.decode(errors="replace"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        until(lambda: until_text in "".join(shown), until_text)
    finally:
        process.terminate()
        process.wait(20)
        reader.join(20)
        os.close(ours)
    return "".join(shown)


def test_bar_on_a_terminal(tmp_path: Path, model_folder: Path) -> None:
    """On a terminal `serve` shows a live bar with the phase, and log lines stay whole above it."""
    shown = on_terminal(tmp_path, model_folder, "until Ctrl-C")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")
    assert "━" in shown
    assert re.search(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] importing +━", plain)
    assert "Ready after " in plain
    assert re.search(
        r"^\d\d:\d\d:\d\d INFO +gateway.supervisor: importing took [\d.]+ s; now ", plain, re.MULTILINE
    )
    assert "Q: " not in plain


def test_no_bar_with_json_logs(tmp_path: Path, model_folder: Path) -> None:
    """On a terminal with LOG_FORMAT=json nothing but JSON is written."""
    shown = on_terminal(tmp_path, model_folder, "ready after", LOG_FORMAT="json")
    assert all(line.startswith("{") for line in shown.splitlines() if line)


def test_no_bar_in_a_pipe(start: StartProgram) -> None:
    """Piped, `serve` writes its log and nothing else."""
    program = start()
    program.until_ready()
    assert all(re.match(r"\d\d:\d\d:\d\d [A-Z]+ +[a-z.]+: ", line) for line in program.log().splitlines())
