"""The image's own health check asks where the program listens, whatever surrounds the variables."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from vllm_engine.config.other_engines import SAME

SCRIPT = Path(__file__).parents[3] / "docker/healthcheck.py"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "http://127.0.0.1:8000/healthz"),
        ({"HOST": "0.0.0.0", "PORT": "9000\r"}, "http://127.0.0.1:9000/healthz"),
        ({"PORT": "9000", "HEALTH_PORT": "9001\n"}, "http://127.0.0.1:9001/healthz"),
        ({"HEALTH_PORT": "tcp://10.43.1.39:80"}, "http://127.0.0.1:8000/healthz"),
        ({"NIM_SERVER_PORT": "9000", "LLAMA_ARG_HOST": "::1"}, "http://[::1]:9000/healthz"),
        ({"PORT": "tcp://10.43.1.39:80", "LLAMA_ARG_PORT": "9000"}, "http://127.0.0.1:9000/healthz"),
        ({"LLAMA_ARG_SSL_CERT_FILE": "/x"}, "https://127.0.0.1:8000/healthz"),
        ({"HOST": "::", "TLS_CERT_FILE": "/x"}, "https://[::1]:8000/healthz"),
    ],
)
def test_where_it_asks(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service's link is no port, and a line end no part of one."""
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert runpy.run_path(str(SCRIPT))["url"]() == expected


def test_it_knows_the_same_names() -> None:
    """It runs without the program's packages, and reads what they read."""
    others = runpy.run_path(str(SCRIPT))["OTHERS"]
    for ours in ("HOST", "PORT", "HEALTH_PORT", "TLS_CERT_FILE"):
        assert set(others.get(ours, ())) == {name for name, same in SAME.items() if same == ours}
