"""Runs in the engine's Python: has vLLM start the mock instead of EngineCore."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from perf.mock_core.mock_process import run_engine_core

REPLACED_IN = "vllm.v1.engine.core"


def install() -> None:
    """Replace EngineCore's process in whatever vLLM this Python imports later; nothing on disk is changed."""
    sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module as everybody else would, and changes it right after it has run."""

    def __init__(self) -> None:
        self._is_done = False

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """Return the ordinary spec of that module, with a loader that does more."""
        if fullname != REPLACED_IN or self._is_done:
            return None
        self._is_done = True  # the next line asks every finder, this one too
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_replace(module: ModuleType) -> None:
                run(module)
                replace(module)

            spec.loader.exec_module = run_and_replace  # type: ignore[method-assign]
        return spec


def replace(module: Any) -> None:
    """Put the mock where vLLM's process manager looks for what it starts.

    Raises:
        AttributeError: this vLLM starts EngineCore by another name.
    """
    process = module.EngineCoreProc
    process.run_engine_core  # noqa: B018 - raises where there is nothing to replace
    process.run_engine_core = staticmethod(run_engine_core)
