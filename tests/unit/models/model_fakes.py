"""Stand-ins for the engine's Python, and for `huggingface_hub`, which the gateway's environment lacks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vllm_engine.models.engine_script import EnginePython, Event

Tell = Callable[[Event], None]
Play = Callable[[Mapping[str, Any], Tell], Any]
"""Answers a request in a script's place, and tells of events."""


class FakePython(EnginePython):
    """Runs no script."""

    def __init__(self, play: Play) -> None:
        super().__init__(Path("python"), {})
        object.__setattr__(self, "_play", play)

    async def run(
        self, script: str, request: Mapping[str, object], *, silence_seconds: float,
        on_event: Tell = lambda _: None,
    ) -> Any:  # fmt: skip
        return self._play(request, on_event)  # type: ignore[attr-defined]


@dataclass
class FakeHubClient:
    """What its hub holds, how often a file comes damaged, and the one whose connection always breaks."""

    folder: Path
    files: dict[str, bytes] = field(default_factory=dict)
    damages: dict[str, int] = field(default_factory=dict)
    breaks: str = ""

    def hf_hub_download(self, model: str, path: str, *, revision: str, tqdm_class: Any, **_: object) -> str:
        there = self.folder / path
        if not there.exists():
            content = self.files[path]
            if self.damages.get(path, 0):
                self.damages[path] -= 1
                content = bytes(len(content))
            with tqdm_class(total=len(content), desc=path) as bar:
                while path == self.breaks:
                    bar.update(2)
                    bar.update(-2)
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
