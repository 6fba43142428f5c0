"""Docs: what is generated is up to date, links and anchors lead somewhere, and code blocks are code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
BLOCKS = [
    pytest.param(language, text, id=f"{path.name}-{number}-{language or 'plain'}")
    for path in DOCUMENTS
    for number, (language, text) in enumerate(FENCE.findall(path.read_text()), 1)
]


@pytest.mark.parametrize("name", ["generate_docs.py", "dashboard.py"])
def test_generated_parts_are_current(name: str) -> None:
    """Tables, help pages and the dashboard are what the code says now."""
    script = ROOT / "tools" / name
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_local_links(document: Path) -> None:
    """Every relative link names a file that is there, and every anchor a heading of it."""
    for target, anchor in LINK.findall(FENCE.sub("", document.read_text())):
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"
        if document.parent.name == "docs":
            assert path.resolve().is_relative_to(ROOT / "docs"), f"{target}: the site has docs/ alone"


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, where both MkDocs and code hosts make the same."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", document.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return {re.sub(r"\s", "-", title) for title in plain} & {re.sub(r"[-\s]+", "-", title) for title in plain}


def test_navigation() -> None:
    """Every page is in the site's navigation once, and nothing else."""
    text = (ROOT / "mkdocs.yml").read_text()
    listed = pages(yaml.safe_load(text)["nav"])
    there = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert len(listed) == len(set(listed))
    assert there == set(listed)


def pages(nav: Any) -> list[str]:
    """Return the pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for entry in nav for part in entry.values() for page in pages(part)]


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_code_blocks(language: str, text: str) -> None:
    """Blocks are valid in the language that they say they are in."""
    if language in ("bash", "sh"):
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif language == "python":
        compile(text, "docs", "exec")
    elif language == "json":
        json.loads(text)
    elif language == "yaml":
        yaml.safe_load(text)
    else:
        assert language in ("", "text", "nginx", "javascript", "ini", "dockerfile", "toml", "console", "sse")


def test_readme_is_one_screen() -> None:
    """A newcomer reads it in a minute."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80
