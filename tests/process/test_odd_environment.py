"""Variables that libraries read by themselves, and what machines leave in an environment: none breaks or misleads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.process.conftest import StartProgram
from tests.support.program import run_cli, until

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
}


def test_all_at_once(start: StartProgram, tmp_path: Path) -> None:
    """The program starts, answers itself without a proxy, draws for no terminal, and says what it dropped."""
    program = start({"tokens": 5}, "--ask", "Well?", **ODD)
    until(lambda: "until Ctrl-C" in program.log(), "the answer")
    log = program.log()
    assert "first question failed" not in log
    assert "\x1b" not in log
    assert "Traceback" not in log
    for name in ("VLLM_PORT", "SSL_CERT_FILE", "TMPDIR=/nonexistent"):
        assert name in log, name
    engine = psutil.Process(program.engine_pid()).environ()
    assert not engine.keys() & {"VLLM_PORT", "VLLM_SERVICE_HOST", "HEALTH_PORT", "SSH_PORT"}
    asked = subprocess.run(
        [sys.executable, "-m", "vllm_engine.cli", "chat", program.url],
        env={"PATH": os.environ["PATH"], "VLLM_ENGINE_API_KEY": "a-key\n", **ODD},
        input="Wéll?",
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        cwd=tmp_path,
    )
    assert (asked.returncode, "\x1b" in asked.stdout) == (0, False), asked.stderr
    assert asked.stdout.strip()


@pytest.mark.parametrize("command", ["serve", "chat", "settings"])
def test_a_key_log_that_cannot_be_written(command: str, tmp_path: Path) -> None:
    """No TLS library can be imported then; the sentence names the variable."""
    done = run_cli({"SSLKEYLOGFILE": "/nonexistent/keys"}, command, cwd=tmp_path)
    assert done.returncode == 2
    assert 'SSLKEYLOGFILE="/nonexistent/keys"' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_propagator_that_is_not_there(tmp_path: Path) -> None:
    """FastAPI cannot be imported then, traces or none; the sentence names the variable."""
    done = run_cli({"OTEL_PROPAGATORS": "tracecontext, b3"}, "serve", cwd=tmp_path)
    assert done.returncode == 2
    assert 'OTEL_PROPAGATORS="tracecontext, b3"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_BSP_MAX_QUEUE_SIZE", "1"), ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "abc")]
)
def test_telemetry_that_cannot_be_set_up(start: StartProgram, name: str, value: str) -> None:
    """A value that OpenTelemetry's library cannot use is a setting's fault, and no crash."""
    program = start(OTLP_ENDPOINT="http://127.0.0.1:9", **{name: value})
    assert program.wait() == 2
    assert "OTEL_*" in program.log()
    assert "Traceback" not in program.log()


def test_settings_in_a_pipe(start: StartProgram, tmp_path: Path) -> None:
    """A forced colour does not turn a program's input into a table."""
    program = start()
    environ = psutil.Process(program.pid).environ() | ODD
    done = run_cli(environ, "settings", "--json", cwd=tmp_path)
    rows = {row["key"]: row["value"] for row in json.loads(done.stdout)}
    assert rows["SSH_PORT"] == "22"
    assert "\x1b" not in run_cli(environ, "settings", cwd=tmp_path).stdout
