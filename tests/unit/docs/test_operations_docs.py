"""docs/operations.md: its arithmetic is the program's, and its figures are the defaults'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from vllm_engine.config.settings import Settings
from vllm_engine.doctor.model_checks import WORKING_BYTES
from vllm_engine.engine.supervisor import STOP_GRACE_SECONDS
from vllm_engine.errors import ExitCode
from vllm_engine.models.model_memory import kv_cache_bytes, most_tokens
from vllm_engine.serve import _LAST_ANSWERS_SECONDS

TEXT = (Path(__file__).parents[3] / "docs/operations.md").read_text()
GIB = 1 << 30
PARAMETERS = {
    "SmolLM2-135M": 134.5e6,
    "Qwen2.5-3B": 3.086e9,
    "Qwen2.5-7B": 7.616e9,
    "Llama-3.1-8B": 8.030e9,
    "Llama-3.1-70B": 70.554e9,
}
"""As the models' cards say."""


def table() -> dict[str, list[float]]:
    """Return the models' rows."""
    rows = re.findall(r"^\| ([\w.-]+-[\d.]+[MB]) \| (.*) \|$", TEXT, re.MULTILINE)
    return {name: [float(cell) for cell in cells.split(" | ")] for name, cells in rows}


def config(layers: float, heads: float, size: float) -> dict[str, Any]:
    """Return a config.json of such a model."""
    return {
        "num_hidden_layers": int(layers),
        "num_attention_heads": int(heads),
        "num_key_value_heads": int(heads),
        "head_dim": int(size),
        "hidden_size": int(heads * size),
    }


@pytest.mark.parametrize("model", PARAMETERS)
def test_rows(model: str) -> None:
    """KiB a token and GiB for 8192 are what the doctor computes; weights are two bytes a parameter."""
    layers, heads, size, kib, gib, weights = table()[model]
    assert kv_cache_bytes(config(layers, heads, size), 1) == kib * 1024
    assert (kv_cache_bytes(config(layers, heads, size), 8192) or 0) / GIB == pytest.approx(gib, abs=0.005)
    assert 2 * PARAMETERS[model] / GIB == pytest.approx(weights, abs=0.01)


def test_the_table_is_whole() -> None:
    """Every row is held to something."""
    assert table().keys() == PARAMETERS.keys()


def test_the_example() -> None:
    """Each of its numbers follows from the one before."""
    said = re.search(
        r"24 GiB GPU with the defaults: 0\.9 × 24 − ([\d.]+) − ([\d.]+) = ([\d.]+) GiB of room\. At (\d+) KiB a "
        r"token\s+that is ([\d,]+) tokens: (\d+) requests of the full (\d+)",
        TEXT,
    )
    assert said is not None
    working, weights, room = float(said[1]), float(said[2]), float(said[3])
    settings = Settings()
    assert working * GIB == WORKING_BYTES
    assert weights == table()["Qwen2.5-3B"][5]
    assert room == pytest.approx(settings.gpu_memory_utilization * 24 - working - weights)
    tokens = int(said[5].replace(",", ""))
    assert most_tokens(config(36, 2, 128), room * GIB) == pytest.approx(tokens, abs=1)
    assert tokens // int(said[7]) == int(said[6])
    assert int(said[7]) == settings.max_model_len


def test_against_vllm() -> None:
    """What vLLM itself counted at two real starts."""
    assert "32.94 GiB of room it counted 959,536 tokens" in TEXT
    assert most_tokens(config(36, 2, 128), 32.94 * GIB) == pytest.approx(959_536, rel=0.001)
    assert "1,509,949,440 bytes 65,536 tokens" in TEXT
    assert most_tokens(config(30, 3, 64), 1_509_949_440) == pytest.approx(65_536, rel=0.001)


def test_stopping() -> None:
    """The sum of a stop's parts, and the margin."""
    settings = Settings()
    assert (
        f"{_LAST_ANSWERS_SECONDS:g} s for the last answers + {STOP_GRACE_SECONDS:g} s for the engine" in TEXT
    )
    whole = settings.lame_duck_seconds + settings.drain_timeout_seconds + _LAST_ANSWERS_SECONDS
    whole += STOP_GRACE_SECONDS
    assert f"with the defaults, is {whole:g} s; a margin of 5 s makes {whole + 5:g} s" in TEXT


def test_exit_statuses() -> None:
    """The table has every one."""
    section = TEXT.partition("### Exit statuses")[2].partition("###")[0]
    assert {int(status) for status in re.findall(r"^\| (\d) \|", section, re.MULTILINE)} == set(ExitCode)
