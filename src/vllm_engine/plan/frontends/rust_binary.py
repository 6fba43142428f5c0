"""What vLLM's Rust frontend says of itself: its version, and whether it takes these arguments."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vllm_engine.system.bounded_run import run_bounded

RUST_VARIABLE = "VLLM_USE_RUST_FRONTEND"
"""With it vLLM starts its Rust frontend, and makes a configuration that this can serve."""

_SECONDS = 10.0
_MOST_CHARS = 300
_NO_DESCRIPTOR = "1048575"
"""The number of no descriptor that is open: it ends before it would use one."""
_UNIMPLEMENTED = "not implemented in Rust frontend"
_REFUSED = "the Rust frontend does not implement "


def version_of(binary: Path) -> str:
    """Return the binary's version, without the build that it may be of, as in 0.32.0+cu129.

    Raises:
        OSError: it cannot be run, or does not say.
    """
    answer = run_bounded([str(binary), "--version"], _SECONDS)
    words = answer.stdout.split()
    if answer.returncode or not words:
        raise OSError(f"status {answer.returncode}")
    return words[-1].partition("+")[0]


def refusal(binary: Path, arguments: Mapping[str, Any]) -> str | None:
    """Return why the frontend would not start with these arguments of `vllm serve`; None if it would.

    It is asked with an empty folder for a model, which it looks for once it has taken everything else.

    Raises:
        OSError: it cannot be run, or does not answer.
    """
    with tempfile.TemporaryDirectory() as empty:
        answer = run_bounded(
            [
                *(str(binary), "frontend", "--listen-fd", _NO_DESCRIPTOR),
                *("--input-listener-fd", _NO_DESCRIPTOR, "--output-listener-fd", _NO_DESCRIPTOR),
                *("--engine-start-index", "0", "--engine-count", "1", "--data-parallel-size", "1"),
                *("--args-json", json.dumps({**arguments, "model_tag": empty}, sort_keys=True)),
            ],
            _SECONDS,
        )
        said = answer.stdout + answer.stderr
        if answer.returncode == 1 and empty in said:
            return None
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if _UNIMPLEMENTED in said:
        names = [f"--{line[2:].replace('_', '-')}" for line in lines if line.startswith("- ")]
        return _REFUSED + ", ".join(names)
    # Of an error with causes the last line is the innermost.
    cause = next((line for line in reversed(lines) if not line.startswith("For more information")), "")
    return f"the Rust frontend refuses its arguments: {cause[:_MOST_CHARS] or f'status {answer.returncode}'}"


def unimplemented(binary: Path, names: Iterable[str]) -> tuple[str, ...]:
    """Return which of these arguments of `vllm serve` the frontend does not implement, whatever their value.

    One is asked for at a time, since it tells no more than the first value that it cannot read. A binary that
    cannot be asked implements all: its start says more.
    """
    found = []
    for name in names:
        try:
            answer = refusal(binary, {name.replace("-", "_"): True}) or ""
        except OSError:
            return ()
        found += [name] if _REFUSED in answer else []
    return tuple(found)
