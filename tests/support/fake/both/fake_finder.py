"""Has our launcher of both frontends, in the fake engine's Python, start the fake: there is no vLLM inside to use."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

_OURS = "vllm_engine.engine.both_frontends.both"
_FAKE = Path(__file__).with_name("fake_both.py")


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the fake in place of ours."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(fullname, _FAKE) if fullname == _OURS else None


sys.meta_path.insert(0, _Finder())
