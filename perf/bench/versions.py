"""Versions of the gateway to compare, as the command line names them."""

from __future__ import annotations

from pathlib import Path


def version(text: str) -> tuple[str, Path]:
    """Read `NAME=FOLDER`: a name, and a folder with the sources of `vllm_engine`.

    Raises:
        OSError: there is no such folder.
    """
    name, _, folder = text.partition("=")
    return name, Path(folder).resolve(strict=True)
