"""The page on many GPUs: its figures stand in the pages that they are said to be from, and its sums are right."""

from __future__ import annotations

import re

from tests.support.doc_blocks import ROOT

PAGE = (ROOT / "docs/scale.md").read_text()
ROW = re.compile(
    r"^\| (.+?) \| ([\d.,]+)(?:, ([\d.,]+))? \| \[.*?\]\((measured/\S+?)\)(.*) \|$", re.MULTILINE
)


def test_figures_are_those_of_the_pages_that_are_named() -> None:
    """In a row that begins with the name given last, if one is."""
    rows = ROW.findall(PAGE)
    assert len(rows) == 7
    for what, *figures, page, where in rows:
        text = (ROOT / "docs" / page).read_text()
        name = re.findall(r"`([\w-]+)`", where)
        lines = [line for line in text.splitlines() if not name or line.startswith(f"| {name[-1]} ")]
        for figure in filter(None, figures):
            assert any(f" {figure} " in line for line in lines), (what, figure)


SUMS = [
    ("50 at a time, 26 minutes", 26, 1000 / 50 * (40 + 38) / 60),
    ("at\n  a million it is 19", 19, 1e6 * 19e-6),
    ("fetch 14 TB", 14, 100 * 131 * (1 << 30) / 1e12),
    ("takes four hours", 4, 1000 * 131 * (1 << 30) / 10e9 / 3600),
    ("55 GB a day", 55, 1000 * 638 * 86_400 / 1e9),
    ("of the router does 3,000 a second", 3000, 1 / 0.31e-3),
    ("some 12,000 hashed lines", 12_000, (1 << 20) / len("a-team-of-15-ch:sha256:" + 64 * "a")),
    ("have one every two days", 0.5, 419 / 54 / 16_384 * 1000),
]


def test_sums() -> None:
    for said, figure, computed in SUMS:
        assert said in PAGE
        assert abs(figure / computed - 1) < 0.1, (said, computed)
