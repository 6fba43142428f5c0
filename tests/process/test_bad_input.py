"""Bad input: one line that names key, value and remedy, the right exit status, nothing started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.fake.fake_engine import scenario_of, start_pids
from tests.support.program import free_port, run_cli

MACHINE = ["device", "dtype", "frontend", "driver", "gpu_memory", "shm", "files", "port", "cache"]
CHECKS = [*MACHINE, "token", "model", "space", "memory", "template"]


@pytest.fixture
def never_started(environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """The variables of a healthy engine, so that nothing but the bad value can stop the start; it is never started."""
    yield environ
    assert start_pids(scenario_of(Path(environ["ENGINE_PYTHON"]))) == []


REFUSED: tuple[tuple[dict[str, str], int, tuple[str, ...]], ...] = (
    ({"DTYPE": "int4"}, 2, ('DTYPE="int4": ',)),
    ({"MODEL_ID": "/no/such/model"}, 3, ('MODEL_ID="/no/such/model": no such folder',)),
    (
        {"MODEL_ID": "."},
        3,
        ('MODEL_ID=".": the folder has no config.json that vLLM can read; name the folder',),
    ),
    ({"ENGINE_PYTHON": "/bin/true"}, 2, ('ENGINE_PYTHON="/bin/true": does not run as a Python',)),
    ({"ENGINE_PYTHON": sys.executable}, 2, ("has no vLLM installed; run `make setup`",)),
    (
        {
            "TENSOR_PARALLEL": "3",
            "MAX_NUM_SEQS": "x",
            "CACHE_DIR": "/proc/x",
            "VLLM_EXTRA_ARGS": "--max-modle-len 3",
            "API_KEYS": "short",
            "DTYPE": "int4",
        },
        2,
        (
            *("API_KEYS=", 'CACHE_DIR="/proc/x": ', 'DTYPE="int4": ', 'MAX_NUM_SEQS="x": '),
            *('TENSOR_PARALLEL="3": ', "VLLM_EXTRA_ARGS="),
        ),
    ),
    ({"OTEL_PROPAGATORS": "tracecontext, b3"}, 2, ('OTEL_PROPAGATORS="tracecontext, b3"',)),
    ({"SSLKEYLOGFILE": "/nonexistent/keys"}, 2, ('SSLKEYLOGFILE="/nonexistent/keys"',)),
)


@pytest.mark.parametrize(("variables", "status", "parts"), REFUSED, ids=lambda value: "-".join(value) if isinstance(value, dict) else "")  # fmt: skip
def test_refused(
    never_started: dict[str, str],
    tmp_path: Path,
    variables: dict[str, str],
    status: int,
    parts: tuple[str, ...],
) -> None:
    """Each fault is one line, all of them are told at once, with the right exit status."""
    done = run_cli(never_started | {"PORT": str(free_port())} | variables, "serve", cwd=tmp_path)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("vllm-engine: ")]
    assert len(lines) == len(parts), done.stderr
    assert all(part in line for part, line in zip(parts, lines, strict=True)), "sorted by name"


def test_settings_report(never_started: dict[str, str], tmp_path: Path) -> None:
    """`settings` tells each value and where it comes from, secrets masked."""
    (tmp_path / ".env").write_text("DTYPE=float16\n")
    model = never_started.pop("MODEL_ID")
    environ = never_started | {"MODEL_NAME": model, "HF_TOKEN": "hf_secret", "MAX_NUM_SEQS": "4"}
    environ |= {
        "MAX_MODEL_LENGTH": "1",
        "SEED": "5",
        "BLOCK_SIZE": "16",
        "VLLM_EXTRA_ARGS": "--block-size 16",
    }
    del environ["SERVED_MODEL_NAME"]
    done = run_cli(environ | {"FORCE_COLOR": "1"}, "settings", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["key"]: (row["value"], row["source"]) for row in json.loads(done.stdout)}
    assert rows["DTYPE"] == ("float16", ".env")
    assert rows["HF_TOKEN"] == ("***", "environment")
    assert rows["PORT"] == ("8000", "default")
    assert rows["MAX_MODEL_LEN"] == ("2048", "the model's maximum, less than the default of 8192")
    assert rows["MAX_NUM_SEQS"] == ("4", "environment")
    assert rows["SERVED_MODEL_NAME"] == (model, "MODEL_ID")
    assert rows["ENGINE_PYTHON"][0] == environ["ENGINE_PYTHON"]
    assert "MODEL_NAME is read as MODEL_ID" in done.stderr
    assert "did you mean MAX_MODEL_LEN?" in done.stderr, "what serve would log as a warning"
    assert done.stderr.count('SEED="5": is not read, as other programs set this name too') == 1
    assert "BLOCK_SIZE" not in done.stderr, "it is given in the right way as well"
    assert "hf_secret" not in done.stdout + done.stderr
    wrong = run_cli(environ | {"DTYPE": "int4", "MAX_NUM_SEQS": "x"}, "settings", cwd=tmp_path)
    assert wrong.returncode == 2
    shown = [line.split() for line in wrong.stdout.splitlines()]
    assert ["DTYPE", "int4", "environment;", "INVALID"] in shown
    assert ["MAX_NUM_SEQS", "x", "environment;", "INVALID"] in shown
    assert wrong.stderr.count('="int4"') == wrong.stderr.count('="x"') == 1


def test_dry_run_is_exact(never_started: dict[str, str], tmp_path: Path) -> None:
    """`serve --dry-run` prints the command that really runs, first and without its environment; it can be pasted.

    What is printed of the environment is what we set: no secret, and nothing that the shell has anyway.
    """
    (tmp_path / ".env").write_text("HF_TOKEN=hf_secret\n")
    environ = never_started | {"MAX_NUM_SEQ": "3", "OF_THE_SHELL": "1", "API_KEYS": "me:a-secret-key"}
    done = run_cli(environ, "serve", "--dry-run", "--enforce-eager", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    python, model = never_started["ENGINE_PYTHON"], never_started["MODEL_ID"]
    assert done.stdout.startswith(f"# vllm serve {model} ")
    assert "# TOOL_CALL_PARSER=none: auto: the model's chat template is not known" in done.stdout.splitlines()
    command = done.stdout.splitlines()[-1].strip()
    assert command.startswith(f"{python} -P -m vllm.entrypoints.cli.main serve {model} ")
    assert "--max-model-len 2048" in command
    assert command.endswith(" --enforce-eager")
    assert ' --uds "$(mktemp -d)/vllm-engine-dry-run.sock" ' in command, "new whenever it is pasted"
    assert "download" not in done.stdout
    assert "MAX_NUM_SEQS" in done.stderr, "what is nearly a flag may well be something else"
    assert "secret" not in done.stdout + done.stderr
    assert "OF_THE_SHELL" not in done.stdout
    # Pasted into that shell, with `env` alone in place of the engine, it shows the engine's environment.
    pasted = done.stdout.replace(python, "env #")
    shell = environ | {
        "PATH": os.environ["PATH"],
        "CACHE_DIR": str(tmp_path / "cache"),
        "HF_TOKEN": "hf_mine",
    }
    told = subprocess.run(["sh", "-c", pasted], env=shell, capture_output=True, text=True, check=True).stdout
    variables = dict(line.partition("=")[::2] for line in told.splitlines())
    assert variables["HF_TOKEN"] == "hf_mine"
    assert variables["OF_THE_SHELL"] == "1"
    assert variables["HF_HOME"] == str(tmp_path / "cache/huggingface")
    assert "API_KEYS" not in variables


def test_serve_takes_what_vllm_serve_takes(never_started: dict[str, str], tmp_path: Path) -> None:
    """A model, our settings and vLLM's flags; they win, and that a variable lost is said."""
    model = never_started["MODEL_ID"]
    environ = never_started | {"MODEL_ID": "another/model", "MAX_MODEL_LEN": "512"}
    words = [
        model,
        "--max-model-len",
        "1k",
        "--served-model-name",
        "a",
        "b",
        "--max-num-seqs=8",
        "--no-enable-prefix-caching",
    ]
    done = run_cli(environ, "serve", "--dry-run", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1]
    assert f" serve {model} --served-model-name a b " in command
    assert "--max-model-len 1000 " in command
    assert command.endswith(" --max-num-seqs=8 --no-enable-prefix-caching")
    assert done.stderr.count("MODEL_ID=another/model is not used") == 1
    for wrong, said in (
        (
            ["--max-num-sqes=8"],
            ("--max-num-sqes=8: is not a flag of vllm serve", "; did you mean --max-num-seqs?"),
        ),
        (
            ["--max-inflight", "4", "--api-key", "hunter2hunter2"],
            (
                "--max-inflight: is not an option of serve; did you mean --max-in-flight?",
                "--api-key: a command line can be read by every process of this machine; set API_KEYS",
            ),
        ),
    ):
        done = run_cli(environ, "serve", "--dry-run", model, *wrong, cwd=tmp_path)
        assert done.returncode == 2
        assert [part for part in said if part not in done.stderr] == []
        assert "hunter2" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "download", "settings", "doctor"])
def test_a_misspelt_name_stops_every_command(model_folder: Path, tmp_path: Path, command: str) -> None:
    """None of them goes on with another model than was meant."""
    (tmp_path / ".env").write_text(f"MODLE_ID={model_folder}\n")
    done = run_cli({}, command, cwd=tmp_path)
    assert done.returncode == 2
    assert 'MODLE_ID="***": nothing reads this name; did you mean MODEL_ID?' in done.stderr


def report(environ: dict[str, str], cwd: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return the doctor's exit status and its checks by their id."""
    done = run_cli(environ, "doctor", "--json", cwd=cwd)
    return done.returncode, {check["id"]: check for check in json.loads(done.stdout)}


def test_doctor_all_well(never_started: dict[str, str], tmp_path: Path, model_folder: Path) -> None:
    """Where all is well each check says so, in order, a line each where it is piped, and the exit status is 0."""
    (model_folder / "model.safetensors").write_bytes(b"x" * 1000)
    (model_folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    environ = never_started | {"PORT": str(free_port()), "MAX_CONNECTIONS": "10"}
    status, checks = report(environ, tmp_path)
    assert (status, list(checks)) == (0, CHECKS)
    assert {check["status"] for check in checks.values()} == {"ok"}
    assert not list((tmp_path / "cache").iterdir()), "nothing is downloaded or started"
    done = run_cli(environ, "doctor", cwd=tmp_path)
    assert [line.split()[1] for line in done.stdout.splitlines()] == CHECKS


ODD = {
    "ALL_PROXY": "http://127.0.0.1:9",
    "AIOHTTP_NO_EXTENSIONS": "1",
    "COLUMNS": "wide",
    "FORCE_COLOR": "1",
    "FORWARDED_ALLOW_IPS": "*",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "LC_ALL": "C",
    "NETRC": "/nonexistent",
    "OTEL_PROPAGATORS": "tracecontext,baggage",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONIOENCODING": "ascii",
    "PYTHONWARNINGS": "default",
    "SSL_CERT_FILE": "/nonexistent/ca.pem",
    "TMPDIR": "/nonexistent",
    "UVICORN_PORT": "1",
    "WEB_CONCURRENCY": "auto",
    "VLLM_PORT": "tcp://10.43.1.39:8000",
    "VLLM_SERVICE_HOST": "10.43.1.39",
    "HEALTH_PORT": "tcp://10.43.1.40:80",
    "SSH_PORT": "tcp://10.43.1.41:22",
    "MAX_CONNECTIONS": "900000000",
}


def test_odd_environment(launch: StartProgram, tmp_path: Path) -> None:
    """What machines leave in an environment breaks nothing: the program starts, and says what it dropped."""
    program = launch({"tokens": 5}, "--ask", "Well?", **ODD)
    program.until_logged("until Ctrl-C")
    log = program.log()
    assert "A: " in log
    assert "\x1b" not in log
    assert "Traceback" not in log
    for name in ("VLLM_PORT", "SSL_CERT_FILE", "TMPDIR=/nonexistent", "WARNING gateway.doctor: files: only "):
        assert name in log, name
    engine = psutil.Process(program.engine_pid()).environ()
    assert not engine.keys() & {"VLLM_PORT", "VLLM_SERVICE_HOST", "HEALTH_PORT", "SSH_PORT"}
    asked = run_cli(ODD | {"API_KEY": "a-key\n"}, "chat", program.url, cwd=tmp_path, text="Wéll?")
    assert (asked.returncode, "\x1b" in asked.stdout) == (0, False), asked.stderr
    assert asked.stdout.strip()


def test_telemetry_that_cannot_be_set_up(launch: StartProgram) -> None:
    """A value that OpenTelemetry's library cannot use is a setting's fault, and no crash."""
    program = launch(OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_BSP_MAX_QUEUE_SIZE="1")
    assert program.wait() == 2
    program.until_logged("OTEL_*")
    assert "Traceback" not in program.log()
