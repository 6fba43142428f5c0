"""Why an engine's Python cannot be run is said as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_engine.config.environment import understood
from vllm_engine.config.settings import load_settings
from vllm_engine.errors import SettingsError
from vllm_engine.plan.engine_installation import find_engine_python, inspect_installation


def refusal(python: str, prefix: Path = Path("/nonexistent/.venv")) -> str:
    """Return what is said of it."""
    settings = load_settings(understood({"ENGINE_PYTHON": python} if python else {}, {}))
    with pytest.raises(SettingsError) as caught:
        find_engine_python(settings, prefix)
    return str(caught.value)


def test_what_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, a folder, a link to nothing, not executable, out of reach: each is another fault."""
    plain, link = tmp_path / "plain", tmp_path / "link"
    plain.touch(0o644)
    link.symlink_to(tmp_path / "gone")
    assert "no such program" in refusal(str(tmp_path / "none"))
    assert "no such program" in refusal("no-such-python")
    assert "a folder, and no program" in refusal(str(tmp_path))
    assert f"a link to {tmp_path / 'gone'}, which is not there" in refusal(str(link))
    assert "not executable" in refusal(str(plain))

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(Path, "stat", denied)
    assert "cannot be reached by uid" in refusal(str(plain)) and "permission denied" in refusal(str(plain))


def test_the_checkouts_own_that_cannot_be_run(tmp_path: Path) -> None:
    """One that is there and cannot be run is not passed over."""
    python = tmp_path / ".venv-engine/bin/python"
    python.parent.mkdir(parents=True)
    python.touch(0o644)
    assert "not executable" in refusal("", tmp_path / ".venv")


def test_a_program_that_is_no_python(tmp_path: Path) -> None:
    """Its own words are told, and not the question that it was asked."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho libpython is missing >&2\nexit 127\n")
    python.chmod(0o755)
    with pytest.raises(SettingsError, match=r"\(status 127: libpython is missing\)$"):
        inspect_installation(python)
    python.write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(SettingsError, match="no JSON"):
        inspect_installation(python)


def test_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in a file or a manifest is the home, as in a shell; without a home it is refused."""
    monkeypatch.setenv("HOME", "/home/me")
    assert load_settings(understood({"CACHE_DIR": "~/cache"}, {})).cache_dir == Path("/home/me/cache")

    def nobody(_: object) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(SettingsError, match="CACHE_DIR"):
        load_settings(understood({"CACHE_DIR": "~/cache"}, {}))
