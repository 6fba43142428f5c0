"""docs/migration.md: what it maps to exists, and nothing that it maps from is ignored in silence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_engine.config.environment import understood
from vllm_engine.config.flags import FlagCatalogue
from vllm_engine.config.other_engines import ELSEWHERE, SAME, unread
from vllm_engine.config.settings import Settings
from vllm_engine.plan.engine_command import RESERVED_FLAGS
from vllm_engine.plan.variable_checks import check_flags

TEXT = (Path(__file__).parents[3] / "docs/migration.md").read_text()
NOTED = re.findall(r"^\| (.*?) \| (.*?) \| (.*)\|$", TEXT, re.MULTILINE)
ROWS = [(left, right) for left, right, _ in NOTED]
OURS = {name.upper() for name in Settings.model_fields}
STILL_READ = {"HF_HOME", "HUGGINGFACE_HUB_CACHE"}
"""By the hub's own library."""


def names(cell: str) -> list[str]:
    """Return the variables in a cell."""
    return re.findall(r"`([A-Z][A-Z0-9_]+)`", cell)


def test_targets_exist() -> None:
    """Every setting of ours that it names is one."""
    right = {name for _, cell in ROWS for name in names(cell)}
    assert right <= OURS
    theirs = {**ELSEWHERE, **SAME}
    assert set(theirs.values()) <= OURS
    assert not theirs.keys() & OURS
    assert not ELSEWHERE.keys() & SAME.keys()
    assert "MODEL_ID" in right


def test_the_same_mapping() -> None:
    """The page and the program agree."""
    documented = {name: names(right) for left, right in ROWS for name in names(left) if name not in OURS}
    for theirs, ours in {**ELSEWHERE, **SAME}.items():
        assert ours in documented[theirs], theirs
    read = {name for left, _, note in NOTED if note.startswith("read") for name in names(left)}
    assert read == SAME.keys()


@pytest.mark.parametrize(
    "name", sorted({name for left, _ in ROWS for name in names(left)} - OURS - STILL_READ)
)
def test_nothing_is_ignored_in_silence(name: str) -> None:
    """A variable of another engine's is read and said, warned of, or refused."""
    environment = understood({name: "1"}, {})
    environ = environment.merged
    catalogue = FlagCatalogue.load("0.33.0")
    told = [*environment.notes, *unread(environ)]
    told += map(str, check_flags(Settings(), environ, catalogue).problems)
    assert len([line for line in told if name in line]) == 1
    assert not check_flags(Settings(), environ, catalogue).warnings


def test_who_has_migrated_is_left_alone() -> None:
    """No word of a variable whose counterpart is set, and never a value."""
    assert unread({"MODEL_NAME": "a", "MODEL_ID": "b"}) == []
    assert "secret" not in "".join(unread({"API_KEY": "secret"}))


def test_flags() -> None:
    """Every flag that the page names is vLLM's, and is refused with the setting that it names, or has none."""
    flags = FlagCatalogue.load("0.33.0").by_env_name.values()
    known = {flag.name for flag in flags} | {
        "model",
        "host",
        "port",
        "revision",
        "api-key",
        "served-model-name",
    }
    for left, right in ROWS:
        for flag in re.findall(r"`--([a-z-]+)`", left):
            assert flag in known, flag
            if flag in RESERVED_FLAGS:
                assert RESERVED_FLAGS[flag] in names(right), flag
