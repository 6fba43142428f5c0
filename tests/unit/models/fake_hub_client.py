"""A stand-in for `huggingface_hub`, which the gateway's environment lacks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@dataclass
class FakeHubClient:
    """What its hub holds, and how often a file comes damaged."""

    folder: Path
    files: dict[str, bytes] = field(default_factory=dict)
    damages: dict[str, int] = field(default_factory=dict)

    def hf_hub_download(self, model: str, path: str, *, revision: str, tqdm_class: Any, **_: object) -> str:
        there = self.folder / path
        if not there.exists():
            content = self.files[path]
            if self.damages.get(path, 0):
                self.damages[path] -= 1
                content = bytes(len(content))
            with tqdm_class(total=len(content), desc=path) as bar:
                for start in range(0, len(content), 2):
                    bar.update(len(content[start : start + 2]))
                    bar.update_transfer(2)
                bar.set_postfix_str("x", refresh=False)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(content)
        return str(there)


@contextmanager
def fake_hub_client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHubClient]:
    """Put one in the place of the module."""
    hub = FakeHubClient(folder / "snapshot")
    module = ModuleType("huggingface_hub")
    module.hf_hub_download = hub.hf_hub_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    yield hub
