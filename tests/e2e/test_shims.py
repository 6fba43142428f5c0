"""Shims on the real classes: a Qwen2 tokenizer, and vLLM's own progress bar, which needs none."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from vllm_engine.plan.engine_installation import inspect_installation
from vllm_engine.plan.engine_site import write_shims

TOKENIZER = """
from tokenizers import Tokenizer
from transformers import Qwen2Tokenizer
tokenizer = Qwen2Tokenizer(vocab={"a": 0, "<|endoftext|>": 1}, merges=[])
print(tokenizer.all_special_tokens_extended == tokenizer.all_special_tokens, len(tokenizer.all_special_tokens) > 0)
"""
REAL_BAR = """
from vllm.model_executor.model_loader.weight_utils import DisabledTqdm
from huggingface_hub.utils.tqdm import _get_progress_bar_context
with _get_progress_bar_context(desc="x", log_level=20, total=5, tqdm_class=DisabledTqdm) as bar: bar.update(5)
print(DisabledTqdm(disable=None, unit="B", total=5).disable, DisabledTqdm.__init__.__module__)
"""


def run(python: Path, code: str, folder: Path | None) -> subprocess.CompletedProcess[str]:
    """Run code in the engine's Python with the shims' folder on its path, or without."""
    environ = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "VLLM_TARGET_DEVICE": "cpu"}
    if folder is not None:
        environ["PYTHONPATH"] = str(folder)
    return subprocess.run(
        [python, "-P", "-c", code], env=environ, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def shims(tmp_path: Path) -> Path:
    """A folder with the shims."""
    write_shims(tmp_path, True)
    return tmp_path


@pytest.mark.e2e
def test_qwen2_tokenizer(engine_python: Path, shims: Path) -> None:
    """A real Qwen2 tokenizer of transformers 5 lacks the property without the shim, and has it with it."""
    without = run(engine_python, TOKENIZER, None)
    assert "has no attribute all_special_tokens_extended" in without.stderr
    assert run(engine_python, TOKENIZER, shims).stdout.split() == ["True", "True"]


@pytest.mark.e2e
def test_installed_vllm_needs_none(engine_python: Path, shims: Path) -> None:
    """The vLLM we install is not patched, and its bar is left alone even where the shims are."""
    assert not inspect_installation(engine_python).needs_shims
    told = run(engine_python, REAL_BAR, shims).stdout.split()
    assert told[-2:] == ["True", "vllm.model_executor.model_loader.weight_utils"]
