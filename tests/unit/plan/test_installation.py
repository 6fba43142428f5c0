"""The engine's Python and its vLLM: found, inspected, and given what it lacks beside newer libraries."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.fake.fake_engine import make_fake_engine_python
from vllm_engine.config.environment import understood
from vllm_engine.config.settings import load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.plan import engine_installation
from vllm_engine.plan.engine_installation import find_engine_python, inspect_installation
from vllm_engine.plan.engine_site import needs_shims, write_metadata, write_shims
from vllm_engine.plan.frontends import rust_binary


def refusal(python: str, prefix: Path = Path("/nonexistent/.venv")) -> str:
    settings = load_settings(understood({"ENGINE_PYTHON": python} if python else {}, {}))
    with pytest.raises(SettingsError) as caught:
        find_engine_python(settings, prefix)
    return str(caught.value)


def test_what_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, a folder, a link to nothing, not executable, out of reach: each is another fault."""
    plain, link, own = tmp_path / "plain", tmp_path / "link", tmp_path / ".venv-engine/bin/python"
    own.parent.mkdir(parents=True)
    plain.touch(0o644)
    own.touch(0o644)
    link.symlink_to(tmp_path / "gone")
    assert "no such program" in refusal(str(tmp_path / "none"))
    assert "no such program" in refusal("no-such-python")
    assert "not a program but a folder" in refusal(str(tmp_path))
    assert f"a link to {tmp_path / 'gone'}, which does not exist" in refusal(str(link))
    assert "not executable" in refusal(str(plain))
    assert "not executable" in refusal("", tmp_path / ".venv"), "the checkout's own is not passed over"

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(Path, "stat", denied)
    assert "cannot be reached by uid" in refusal(str(plain)) and "permission denied" in refusal(str(plain))


def test_a_program_that_is_no_python(tmp_path: Path) -> None:
    """Its own words are told, and not the question that it was asked."""
    python = tmp_path / "python"
    status = ("echo libpython is missing >&2\nexit 127", r"\(status 127: libpython is missing\)$")
    for script, told in (status, ("echo hello", "its answer is not JSON")):
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
        with pytest.raises(SettingsError, match=told):
            inspect_installation(python)


def test_a_rust_frontend_that_does_not_say_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the Python's; one that hangs, as a Python that hangs, is ended with its own child."""
    python = make_fake_engine_python(tmp_path / "venv", rust_version="0.32.0")
    [rust] = tmp_path.rglob("vllm-rs")
    for text, version, fault in (
        ("\0", None, "Exec format error"),
        ("#!/bin/sh\nexit 3", None, "status 3"),
        ("#!/bin/sh\necho 0.31.0", "0.31.0", ""),
    ):
        rust.write_text(text)
        found = inspect_installation(python)
        assert (found.rust_version, found.rust_fault, found.rust_frontend) == (version, fault, rust)
    child = f"1000.{os.getpid()}"
    other = tmp_path / "python"
    for hanging in (rust, other):
        hanging.write_text(f"#!/bin/sh\nsleep {child}\n")
        hanging.chmod(0o755)
    monkeypatch.setattr(rust_binary, "_SECONDS", 0.5)
    assert inspect_installation(python).rust_fault == f"{rust} did not answer in 0.5 s"
    monkeypatch.setattr(engine_installation, "_PYTHON_SECONDS", 0.5)
    with pytest.raises(SettingsError, match=r"python did not answer in 0.5 s\)"):
        inspect_installation(other)
    running = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    assert not [words for words in running if child in words]


def test_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a file or a manifest is the home, as in a shell; without a home it is refused."""
    monkeypatch.setenv("HOME", "/home/me")
    assert load_settings(understood({"CACHE_DIR": "~/cache"}, {})).cache_dir == Path("/home/me/cache")

    def nobody(_: object) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(SettingsError, match="CACHE_DIR"):
        load_settings(understood({"CACHE_DIR": "~/cache"}, {}))


def test_versions_that_need_shims() -> None:
    """Only a vLLM that is older than the libraries beside it is patched."""
    old = (("0.11.2", "5.1.0"), ("0.11.0", "4.57.6"), ("0.10.1+cu128", "5.0.0rc1"))
    new = (("0.32.0", "5.19.0"), ("0.12.0", "5.1.0"), ("0.11.2", "4.57.6"), ("", "5.0.0"), ("dev", ""))
    assert all(needs_shims(*versions) for versions in old)
    assert not any(needs_shims(*versions) for versions in new)


TOKENIZERS = """
class PreTrainedTokenizerBase:
    all_special_tokens = ["<s>"]
    def __getattr__(self, name):
        raise AttributeError(name)
"""
BAR = "class Bar:\n    def __init__(self, disable=False, unit=''):\n        self.disable = disable\n"
OLD_BAR = f"{BAR}class DisabledTqdm(Bar):\n    def __init__(self, **kw):\n        super().__init__(**kw, disable=True)\n"
NEW_BAR = OLD_BAR.replace("**kw, disable=True", "**(kw | {'disable': True})")
ASK = """
import sys
assert not {"transformers", "vllm"} & set(sys.modules)
from transformers.tokenization_utils_base import PreTrainedTokenizerBase
from vllm.model_executor.model_loader.weight_utils import DisabledTqdm
print(PreTrainedTokenizerBase().all_special_tokens_extended, DisabledTqdm(disable=False, unit="B").disable)
print(DisabledTqdm.__init__.__module__)
"""


def modules(folder: Path, tokenizers: str, bar: str) -> Path:
    """Lay out the two modules as far as the shims look into them."""
    for name, text in {
        "transformers/tokenization_utils_base.py": tokenizers,
        "vllm/model_executor/model_loader/weight_utils.py": bar,
    }.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(text)
    return folder


def run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    environ = {"PYTHONPATH": ":".join(map(str, folders)), "PATH": os.environ["PATH"]}
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)


def test_shims(tmp_path: Path) -> None:
    """Old modules are patched, what works is left alone, and a sitecustomize that ours hides runs all the same."""
    shims = tmp_path / "engine-site"
    write_shims(shims, True)
    old = modules(tmp_path / "old", TOKENIZERS, OLD_BAR)
    assert run(ASK, old).returncode == 1
    patched = run(ASK, shims, old)
    assert (patched.stderr, patched.stdout.splitlines()) == ("", ["['<s>'] True", "sitecustomize"])
    own = TOKENIZERS + "    all_special_tokens_extended = 'its own'\n"
    new = modules(tmp_path / "new", own, NEW_BAR)
    (new / "sitecustomize.py").write_text("print('the other one')")
    left = run(ASK, shims, new).stdout.splitlines()
    assert left == ["the other one", "its own True", "vllm.model_executor.model_loader.weight_utils"]


def test_the_engines_site_follows_its_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata of another version goes, shims go when they are not needed, and a restart writes nothing."""
    write_metadata(tmp_path, "0.31.0")
    write_metadata(tmp_path, "0.32.0")
    write_shims(tmp_path, True)
    found = run("import importlib.metadata as m; print(m.version('vllm'))", tmp_path)
    assert found.stdout == "0.32.0+cpu\n"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == [
        "sitecustomize.py",
        "vllm-0.32.0+cpu.dist-info",
    ]
    with monkeypatch.context() as read_only:

        def refused(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        for name in ("unlink", "replace", "mkdir", "write_bytes"):
            read_only.setattr(Path, name, refused)
        write_metadata(tmp_path, "0.32.0")
        write_shims(tmp_path, True)
    write_shims(tmp_path, False)
    assert not (tmp_path / "sitecustomize.py").exists()
    write_shims(tmp_path, False)
