"""What vLLM's Rust frontend says of itself: its version, and whether it takes these arguments."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

RUST_VARIABLE = "VLLM_USE_RUST_FRONTEND"
"""With it vLLM starts its Rust frontend, and makes a configuration that this can serve."""

_SECONDS = 10.0
_MOST_CHARS = 300
_NO_DESCRIPTOR = "1048575"
"""The number of no descriptor that is open: it ends before it would use one."""
_UNIMPLEMENTED = "not implemented in Rust frontend"
_REFUSED = "the Rust frontend does not implement "


def version_of(binary: Path) -> str | None:
    """Return the binary's version; None where it does not say, or cannot be run."""
    try:
        words = _run([str(binary), "--version"]).stdout.split()
    except OSError:
        return None
    return words[-1] if words else None


def refusal(binary: Path, arguments: Mapping[str, Any]) -> str | None:
    """Return why the frontend would not start with these arguments of `vllm serve`; None if it would.

    It is asked with an empty folder for a model, which it looks for once it has taken everything else.

    Raises:
        OSError: it cannot be run, or does not answer.
    """
    with tempfile.TemporaryDirectory() as empty:
        answer = _run(
            [
                *(str(binary), "frontend", "--listen-fd", _NO_DESCRIPTOR),
                *("--input-listener-fd", _NO_DESCRIPTOR, "--output-listener-fd", _NO_DESCRIPTOR),
                *("--engine-start-index", "0", "--engine-count", "1", "--data-parallel-size", "1"),
                *("--args-json", json.dumps({**arguments, "model_tag": empty}, sort_keys=True)),
            ]
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


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{argv[0]} did not answer in {_SECONDS:g} s") from error
