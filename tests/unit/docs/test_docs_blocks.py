"""Every code block of the documentation is run, checked for its syntax, or says why not.

The markers that a block may carry are described in `tests/support/doc_blocks.py`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import tomllib
from collections.abc import Callable

import pytest
import yaml

from tests.support.doc_blocks import DOCUMENTS, ROOT, Block, blocks

ALL = [block for document in DOCUMENTS for block in blocks(document)]
RUN_BY = {ROOT / "docs/clients.md": "tests/e2e/test_clients.py"}
"""Documents whose `run` markers a test obeys."""


def check_shell(text: str) -> None:
    """Have bash read it without running it."""
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_yaml(text: str) -> None:
    """Parse each of its documents; a template of Helm's is none."""
    list(yaml.safe_load_all(text))


CHECKS: dict[str, Callable[[str], object]] = {
    "bash": check_shell,
    "sh": check_shell,
    "python": ast.parse,
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": check_yaml,
}
PROSE = ("text", "console", "mermaid")
"""What a program prints, and drawings: nothing to run."""


@pytest.mark.parametrize("block", ALL, ids=str)
def test_block(block: Block) -> None:
    """Its syntax is right where there is a parser for it; otherwise it is run, or a marker says why not."""
    if block.kind == "run":
        assert block.document in RUN_BY, f"{block}: no test runs the blocks of this document"
    if block.kind == "not tested":
        assert len(block.said) > 10, f"{block}: say why it is not tested"
    check = CHECKS.get(block.language)
    if check is not None:
        try:
            check(block.text)
        except (SyntaxError, ValueError, yaml.YAMLError) as error:
            pytest.fail(f"{block}: {error}")
    assert check or block.kind or block.language in PROSE, (
        f"{block}: nothing checks a block of {block.language or 'no language'}; put "
        "<!-- not tested: why --> before it, or name its language"
    )


def test_there_are_blocks() -> None:
    """The blocks are found, with their markers."""
    assert len(ALL) > 30
    assert {block.kind for block in ALL} == {"run", "not tested", ""}
    for document, test in RUN_BY.items():
        assert document.name in (ROOT / test).read_text()
