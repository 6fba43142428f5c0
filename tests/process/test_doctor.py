"""`vllm-engine doctor` as users run it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import CONFIG, StartProgram
from tests.support.fake.fake_engine import make_fake_engine_python
from tests.support.program import free_port, run_cli

MACHINE = ["device", "dtype", "driver", "gpu_memory", "shm", "files", "port", "cache"]
IDS = [*MACHINE, "token", "model", "space", "memory", "template"]


@pytest.fixture
def environ(tmp_path: Path, model_folder: Path) -> dict[str, str]:
    """A machine with the fake CPU engine and a small local model."""
    (model_folder / "model.safetensors").write_bytes(b"x" * 1000)
    (model_folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    python = make_fake_engine_python(tmp_path / "engine")
    return {"ENGINE_PYTHON": str(python), "MODEL_ID": str(model_folder), "PORT": str(free_port())}


def report(environ: dict[str, str], cwd: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the exit status and the checks by their id."""
    done = run_cli(environ, "doctor", "--json", cwd=cwd)
    return done.returncode, {check["id"]: check for check in json.loads(done.stdout)}


def test_all_well(environ: dict[str, str], tmp_path: Path) -> None:
    """Where all is well each check says so, in order, and the exit status is 0."""
    status, checks = report(environ | {"MAX_CONNECTIONS": "10"}, tmp_path)
    assert (status, list(checks)) == (0, IDS)
    assert {check["status"] for check in checks.values()} == {"ok"}
    assert not list((tmp_path / "cache").iterdir()), "nothing is downloaded or started"


def test_lines(environ: dict[str, str], tmp_path: Path) -> None:
    """Piped, it prints a line a check."""
    done = run_cli(environ, "doctor", cwd=tmp_path)
    assert [line.split()[1] for line in done.stdout.splitlines()] == IDS


def test_failures(environ: dict[str, str], tmp_path: Path, model_folder: Path) -> None:
    """Several failures are told at once, each with its remedy, and the exit status is 3."""
    huge = CONFIG | {"max_position_embeddings": 1 << 30, "num_hidden_layers": 4000, "hidden_size": 65536}
    (model_folder / "config.json").write_text(json.dumps(huge))
    (model_folder / "tokenizer_config.json").write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, checks = report(environ | {"PORT": port, "MAX_MODEL_LEN": "1000000"}, tmp_path)
    assert status == 3
    assert [id for id, check in checks.items() if check["status"] == "fail"] == ["port", "memory"]
    assert "set another PORT" in checks["port"]["remedy"]
    assert checks["memory"]["remedy"].startswith("set MAX_MODEL_LEN=")
    assert checks["template"]["status"] == "warn"


def test_no_such_model(environ: dict[str, str], tmp_path: Path) -> None:
    """A model that is not there is a failed check with its remedy, not a traceback."""
    status, checks = report(environ | {"MODEL_ID": "/none"}, tmp_path)
    assert (status, checks["model"]["status"]) == (3, "fail")
    assert "no such folder" in checks["model"]["sentence"]
    assert checks["model"]["remedy"] == "mount it or correct the path"


def test_cache_is_a_file(environ: dict[str, str], tmp_path: Path) -> None:
    """A CACHE_DIR that cannot be a folder is a failed check beside the others."""
    (tmp_path / "cache").write_text("")
    status, checks = report(environ, tmp_path)
    assert (status, checks["cache"]["status"], checks["port"]["status"]) == (3, "fail", "ok")
    assert "make it writable or set another CACHE_DIR" in checks["cache"]["remedy"]


def test_bad_settings(environ: dict[str, str], tmp_path: Path) -> None:
    """Settings that mean nothing end it with 2, as they do `serve`."""
    for wrong in ({"PORT": "many"}, {"VLLM_EXTRA_ARGS": "--no-such-flag"}):
        done = run_cli(environ | wrong, "doctor", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert next(iter(wrong)) in done.stderr


def test_serve_says_the_fast_ones(start: StartProgram) -> None:
    """`serve` logs what the fast checks doubt before it starts."""
    program = start(MAX_CONNECTIONS="900000000")
    program.until_ready()
    assert "WARNING gateway.doctor: files: only " in program.log()
