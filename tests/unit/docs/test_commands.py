"""Commands in documents: their files are here, and what they need beside `make run` is installed before."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.support.doc_blocks import DOCUMENTS, ROOT, blocks

FOLDERS = "deploy|docker|docs|perf|requirements|scripts|src|tests|tools"
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w")
FROM_ROOT = [document for document in DOCUMENTS if document.parent == ROOT]
"""Documents in which a path begins at the root, not in docs/."""

DEVELOPMENT = {"httpx2", "psutil", "pytest"}
COMMAND = re.compile(r"^[^#\n]*\.venv/bin/(?:python -m (perf[\w.]*)|(pytest))", re.MULTILINE)
INSTALLED = re.compile(r"^(\S+=\S+ )?(scripts/setup\.sh (dev|all)|make (chaos|nightly))\b", re.MULTILINE)


@pytest.mark.parametrize("document", FROM_ROOT, ids=lambda document: document.name)
def test_files_that_are_named_are_here(document: Path) -> None:
    assert [path for path in PATH.findall(document.read_text()) if not (ROOT / path).exists()] == []


def file_of(module: str) -> Path | None:
    folder = ROOT / module.replace(".", "/")
    files = (folder / "__main__.py", folder / "__init__.py", folder.with_suffix(".py"))
    return next((file for file in files if file.exists()), None)


@functools.cache
def imported(file: Path) -> frozenset[str]:
    """Return the modules that a file names in imports."""
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def packages(module: str) -> set[str]:
    """Return the packages that a module of this checkout imports, itself or through others of it."""
    left, seen = [module], set[str]()
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            if name.startswith(("perf", "tests")) and (file := file_of(name)):
                left += imported(file)
    return {name.partition(".")[0] for name in seen}


def test_commands_that_need_the_development_tools_come_after_their_set_up() -> None:
    """CONTRIBUTING.md apart, whose reader has run `make test`."""
    assert packages("perf.start_times") >= {"httpx2", "psutil"}
    assert not packages("perf.cpu_profile") & DEVELOPMENT
    for document in DOCUMENTS:
        before = ""
        for block in blocks(document) if document.name != "CONTRIBUTING.md" else []:
            for match in COMMAND.finditer(block.text):
                is_ready = INSTALLED.search(before + block.text[: match.start()])
                needed = {"pytest"} if match[2] else packages(match[1]) & DEVELOPMENT
                assert is_ready or not needed, f"{block}: {match[0]}: needs {needed}, `scripts/setup.sh dev`"
            before += block.text
