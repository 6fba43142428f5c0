"""The layout that CONTRIBUTING.md promises: a name belongs to one file, and files, folders and functions stay small."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TREES = ("src", "tests", "tools", "perf", "scripts")
FILES = [path for tree in TREES for path in sorted((ROOT / tree).rglob("*.py"))]


@pytest.mark.parametrize("tree", TREES)
def test_names_are_unique(tree: str) -> None:
    names = Counter(path.name for path in FILES if path.is_relative_to(ROOT / tree))
    shared = {"__init__.py", "__main__.py", "conftest.py"}
    assert {name: count for name, count in names.items() if count > 1 and name not in shared} == {}


def test_files_folders_and_functions_are_small() -> None:
    """At most 350 lines a file, 60 a function, 15 files of code a folder."""
    folders = Counter(path.parent.relative_to(ROOT) for path in FILES)
    assert {str(folder): count for folder, count in folders.items() if count > 15} == {}
    long = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        long += [(path.name, lines)] if (lines := text.count("\n")) > 350 else []
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [(f"{path.name}: {node.name}", lines)] if lines > 60 else []
    assert long == []
