"""The fenced code blocks of Markdown documents, each with the marker on the line before it.

- no marker: `bash`, `sh`, `python`, `json`, `yaml` and `toml` are checked for their syntax, no more;
- `<!-- run: CLIENT; says: WORDS -->` in docs/use/clients.md: tests/e2e/test_clients.py runs the block against the real vLLM with the
  client of tests/data/clients/CLIENT.txt (`with tools`: by TEST_TOOLS=1 alone) and looks for the words in what it prints;
- `<!-- run: CLIENT as FILE -->` puts the block into a file beside that client's other blocks;
- `<!-- not tested: WHY -->` lets a block of another language, or one that cannot be run, be;
- `text`, `console` and `mermaid` are what a program prints, and drawings.
"""

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
