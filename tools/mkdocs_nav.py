"""MkDocs' hook: the navigation shows the pages that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> None:
    """Leave out of `nav` what docs/ does not have."""
    config["nav"] = existing(config["nav"], Path(config["docs_dir"]))


def existing(nav: list[Any], folder: Path) -> list[Any]:
    """Return the entries whose page is in the folder, and the sections that have any."""
    kept: list[Any] = []
    for entry in nav:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            target = existing(target, folder)
        elif not (folder / target).exists():
            continue
        if target:
            kept.append({title: target})
    return kept
