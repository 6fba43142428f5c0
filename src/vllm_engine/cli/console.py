"""What commands print with."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from vllm_engine.doctor.check import Check

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def escape_what_cannot_be_encoded() -> None:
    """Make standard output escape characters that its encoding lacks, as standard error does.

    `PYTHONIOENCODING`, `LC_ALL` or `PYTHONUTF8` may have made it ASCII.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def console(*, stderr: bool = False, is_plain: bool = False) -> Console:
    """Return a console that counts as a terminal only if its stream is one, even if `FORCE_COLOR` is set.

    CI systems set that variable for everything they run; output into a pipe is read by programs. With
    `is_plain` it never counts as one.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, force_terminal=not is_plain and stream is not None and stream.isatty())


def print_notes(notes: Iterable[str]) -> None:
    """Print on standard error what does not belong to a command's output."""
    for note in notes:
        print(f"vllm-engine: {note}", file=sys.stderr)


def print_json(value: object) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))


def print_checks(checks: Sequence[Check], console: Console, *, as_json: bool = False) -> None:
    """Print a table on a terminal, one line per check elsewhere, or JSON."""
    from rich.table import Table
    from rich.text import Text

    if as_json:
        print_json([check.as_json() for check in checks])
        return
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
