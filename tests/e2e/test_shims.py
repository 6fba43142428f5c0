"""Shims on the real classes: a Qwen2 tokenizer, vLLM's silent progress bar, the hub client's call."""

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
BAR = """
import ast, inspect, sys
from importlib import util
from tqdm.auto import tqdm
# The class of vLLM before 0.11.1, in a module of that name: importing the real one takes torch.
import types
source = "class DisabledTqdm(tqdm):\\n    def __init__(self, *args, **kwargs):\\n        super().__init__(*args, **kwargs, disable=True)"
module = types.ModuleType("weight_utils")
module.tqdm = tqdm
exec(source, module.__dict__)
patcher = sys.modules.get("sitecustomize")
if getattr(patcher, "patch_progress_bar", None):
    patcher.patch_progress_bar(module)
from huggingface_hub.utils.tqdm import _get_progress_bar_context, tqdm as hub_tqdm
# As the client calls a bar of its own kind, which older clients did with every bar.
bar = module.DisabledTqdm(disable=None, name="huggingface_hub.x", unit="B", unit_scale=True, total=5, initial=0, desc="x")
with bar: bar.update(1)
with _get_progress_bar_context(desc="x", log_level=20, total=5, tqdm_class=module.DisabledTqdm) as bar: bar.update(5)
print(bar.disable)
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
def test_progress_bar_of_an_old_vllm(engine_python: Path, shims: Path) -> None:
    """The old bar on the real tqdm fails at the hub client's call, and with the shim it is silent."""
    without = run(engine_python, BAR, None)
    assert "multiple values for keyword argument 'disable'" in without.stderr
    patched = run(engine_python, BAR, shims)
    assert (patched.stdout, patched.stderr) == ("True\n", "")


@pytest.mark.e2e
def test_installed_vllm_needs_none(engine_python: Path, shims: Path) -> None:
    """The vLLM we install is not patched, and its bar is left alone even where the shims are."""
    assert not inspect_installation(engine_python).needs_shims
    told = run(engine_python, REAL_BAR, shims).stdout.split()
    assert told[-2:] == ["True", "vllm.model_executor.model_loader.weight_utils"]
