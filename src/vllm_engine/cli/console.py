"""What commands print on."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def escape_what_cannot_be_encoded() -> None:
    """Have standard output escape what its encoding lacks, as standard error does, and never fail for it.

    `PYTHONIOENCODING`, `LC_ALL` or `PYTHONUTF8` of the machine's may have made it ASCII.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def tell(notes: Iterable[str]) -> None:
    """Say on standard error what a report itself does not hold."""
    for note in notes:
        print(f"vllm-engine: {note}", file=sys.stderr)


def console(*, stderr: bool = False) -> Console:
    """Return a console that takes its stream for a terminal where it is one, whatever `FORCE_COLOR` says.

    Builds set that variable for all they run; a pipe of ours is read by programs.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, force_terminal=stream is not None and stream.isatty())
