"""The preparation of a start: what a failure offline means."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_engine.engine.engine_exit import EngineExit
from vllm_engine.engine.startup.preparation import Preparation
from vllm_engine.errors import Diagnosis

END = EngineExit(1, (), was_ready=False)


@pytest.mark.parametrize(
    ("code", "is_offline", "again"),
    [
        ("hub-unreachable", True, True),
        ("not-cached-and-offline", True, True),
        ("hub-unreachable", False, False),
        ("disk-full", True, False),
    ],
)
def test_a_file_that_is_missing_offline(code: str, is_offline: bool, again: bool) -> None:
    """It is fetched by one more start with access to the hub; any other failure is what it is."""
    told = Diagnosis(code, "it failed")
    parts: list[Any] = [None] * 7 + [lambda _: told]
    preparation = Preparation(*parts)
    preparation.is_offline = is_offline
    assert preparation.explain(END).retryable is again
    assert preparation.needs_hub is again
