"""The fenced code blocks of Markdown documents, each with the marker that stands before it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_MARKER = re.compile(r"<!-- (run|not tested): (.*) -->")
_FENCE = re.compile(r"( *)(```+|~~~+)([\w+-]*).*")


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        line: where it begins, counted from 1.
        kind: the marker's first word or words, `run` or `not tested`; empty without a marker.
        said: what the marker says after them.
    """

    document: Path
    line: int
    language: str
    text: str
    kind: str = ""
    said: str = ""

    def __str__(self) -> str:
        """Say where it is."""
        return f"{self.document.name}:{self.line}"


def blocks(document: Path) -> list[Block]:
    """Return a document's blocks in order."""
    found: list[Block] = []
    lines = iter(enumerate(document.read_text(encoding="utf-8").splitlines(), 1))
    marker = ("", "")
    for number, line in lines:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            if line.strip():
                match = _MARKER.fullmatch(line.strip())
                marker = (match[1], match[2].strip()) if match else ("", "")
            continue
        indent, mark, language = fence.groups()
        inside: list[str] = []
        for _, each in lines:
            if each.strip() == mark:
                break
            inside.append(each.removeprefix(indent))
        found.append(Block(document, number, language, "\n".join(inside) + "\n", *marker))
        marker = ("", "")
    return found
