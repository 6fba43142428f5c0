"""The checks as a table for people, or as plain lines."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_engine.doctor.check import Check, Status

_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


def show(checks: Sequence[Check], console: Console) -> None:
    """Print a table on a terminal, a line a check elsewhere."""
    if not console.is_terminal:
        for check in checks:
            line = f"{check.status:<4}  {check.id:<10}  {check}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return
    table = Table("check", "", "found", "what to do")
    for check in checks:
        status = Text(check.status.value, style=_STYLES[check.status])
        table.add_row(Text(check.id), status, Text(check.sentence), Text(check.remedy or ""))
    console.print(table)
