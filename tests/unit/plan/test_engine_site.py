"""Shims: which versions need them, and that they mend what they should and nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_engine.plan.engine_site import needs_shims, write_shims

TOKENIZERS = """
class PreTrainedTokenizerBase:
    all_special_tokens = ["<s>"]
    def __getattr__(self, name):
        raise AttributeError(name)
"""
WHOLE = "class Bar:\n    def __init__(self, disable=False, unit=''):\n        self.disable = disable\n"
OLD_BAR = (
    "class DisabledTqdm(Bar):\n    def __init__(self, **kw):\n        super().__init__(**kw, disable=True)\n"
)
NEW_BAR = "class DisabledTqdm(Bar):\n    def __init__(self, **kw):\n        super().__init__(**(kw | {'disable': True}))\n"
ASK = """
import sys
assert not {"transformers", "vllm"} & set(sys.modules)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from vllm.model_executor.model_loader.weight_utils import DisabledTqdm
print(PreTrainedTokenizerBase().all_special_tokens_extended, DisabledTqdm(disable=False, unit="B").disable)
print(DisabledTqdm.__init__.__module__)
"""


@pytest.mark.parametrize(
    ("vllm", "transformers", "needed"),
    [
        ("0.32.0", "5.19.0", False),
        ("0.12.0", "5.1.0", False),
        ("0.11.2", "5.1.0", True),
        ("0.11.2", "4.57.6", False),
        ("0.11.0", "4.57.6", True),
        ("0.10.1+cu128", "5.0.0rc1", True),
        ("", "5.0.0", False),
        ("dev", "", False),
    ],
)
def test_versions_that_need_shims(vllm: str, transformers: str, needed: bool) -> None:
    """Only a vLLM that is older than the libraries beside it is mended."""
    assert needs_shims(vllm, transformers) is needed


def site(tmp_path: Path, tokenizers: str, bar: str) -> Path:
    """Lay out the two modules as far as the shims look into them."""
    for name, text in {
        "transformers/__init__.py": "",
        "transformers/tokenization_utils_base.py": tokenizers,
        "vllm/__init__.py": "",
        "vllm/model_executor/__init__.py": "",
        "vllm/model_executor/model_loader/__init__.py": "",
        "vllm/model_executor/model_loader/weight_utils.py": WHOLE + bar,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """Run code with these folders on the import path."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(map(str, folders)), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )


def test_old_modules_are_mended(tmp_path: Path) -> None:
    """The lost property is back and the bar takes `disable` twice, without a word."""
    folder = tmp_path / "engine-site"
    write_shims(folder, True)
    modules = site(tmp_path / "site", TOKENIZERS, OLD_BAR)
    assert run(ASK, modules).returncode == 1
    mended = run(ASK, folder, modules)
    assert (mended.stderr, mended.stdout.splitlines()) == ("", ["['<s>'] True", "sitecustomize"])


def test_new_modules_are_left_alone(tmp_path: Path) -> None:
    """A bar and a tokenizer that are whole stay their own."""
    folder = tmp_path / "engine-site"
    write_shims(folder, True)
    own = TOKENIZERS + "    all_special_tokens_extended = 'its own'\n"
    left = run(ASK, folder, site(tmp_path / "site", own, NEW_BAR))
    assert left.stdout.splitlines() == ["its own True", "vllm.model_executor.model_loader.weight_utils"]


def test_a_hidden_sitecustomize_still_runs(tmp_path: Path) -> None:
    """Ours does not take the place of the distribution's."""
    folder = tmp_path / "engine-site"
    write_shims(folder, True)
    (tmp_path / "sitecustomize.py").write_text("print('the other one')")
    assert run("print('main')", folder, tmp_path).stdout.split("\n") == ["the other one", "main", ""]


def test_shims_go_when_they_are_not_needed(tmp_path: Path) -> None:
    """After an update of vLLM nothing of them is left, and the rest of the folder is."""
    (tmp_path / "vllm.dist-info").mkdir()
    write_shims(tmp_path, True)
    assert (tmp_path / "sitecustomize.py").exists()
    write_shims(tmp_path, False)
    assert [path.name for path in tmp_path.iterdir()] == ["vllm.dist-info"]


@pytest.mark.parametrize("needed", [True, False])
def test_a_restart_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: bool) -> None:
    """What is as wanted already is left alone: the cache's disk may have become read-only since the start."""
    write_shims(tmp_path, needed)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("unlink", "replace", "mkdir"):
        monkeypatch.setattr(Path, name, refused)
    monkeypatch.setattr(shutil, "copyfile", refused)
    write_shims(tmp_path, needed)
    assert (tmp_path / "sitecustomize.py").exists() is needed
