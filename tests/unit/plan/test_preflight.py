"""Doubts that the start-up log voices."""

from __future__ import annotations

import pytest

from vllm_engine.config.environment import Environment
from vllm_engine.config.settings import load_settings
from vllm_engine.plan.preflight import warnings_about


def open_door(**variables: str) -> list[str]:
    """Return the warnings about who may come in."""
    return [
        warning
        for warning in warnings_about(load_settings(Environment(variables, {})))
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
