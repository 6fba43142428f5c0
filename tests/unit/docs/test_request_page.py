"""docs/request.md: each step's file exists, and the statuses named beside it are decided there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
GATEWAY = ROOT / "src/vllm_engine/gateway"
PAGE = (ROOT / "docs/request.md").read_text()


def test_steps_are_where_the_page_says() -> None:
    rows = re.findall(r"^\| (.*?) \| (`.*?`) \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(rows) > 8
    for _, files, statuses in rows:
        sources = [(GATEWAY / name).read_text() for name in re.findall(r"`(.+?)`", files)]
        numbers = {
            node.value
            for source in sources
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant) and isinstance(node.value, int)
        }
        assert {int(status) for status in re.findall(r"\d+", statuses)} <= numbers, files


def test_every_refusal_is_on_the_page() -> None:
    """What raises or returns a `Rejected` is one of the page's files."""
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    for file in GATEWAY.rglob("*.py"):
        if "Rejected(\n" in file.read_text() or re.search(r"\bRejected\(\d", file.read_text()):
            assert file.relative_to(GATEWAY).as_posix() in named, file
