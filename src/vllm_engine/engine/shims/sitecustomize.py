"""Runs first in every Python process of an engine whose vLLM is older than the libraries beside it.

Copied to a folder on the engine's import path where `plan/engine_site.py` finds that the versions need it,
and only there. Imports nothing of what it patches: each patch is applied just after somebody has imported the
module, prints nothing, and leaves alone what works.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def patch_tokenizers(module: Any) -> None:
    """Give transformers 5 back the property that vLLM before 0.12 reads (vllm-project/vllm#29686)."""
    base = module.PreTrainedTokenizerBase
    # Not hasattr: the class has a __getattr__ of its own.
    if not any("all_special_tokens_extended" in cls.__dict__ for cls in base.__mro__):
        base.all_special_tokens_extended = property(lambda self: self.all_special_tokens)


def patch_progress_bar(module: Any) -> None:
    """Have vLLM's silent progress bar accept the `disable` that newer hub clients pass as well."""
    bar = module.DisabledTqdm

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)  # the hub client's own bars have names, tqdm's have not
        super(bar, self).__init__(*args, **(kwargs | {"disable": True}))

    try:
        bar(disable=True)
    except TypeError:
        bar.__init__ = initialise


PATCHES: dict[str, Callable[[Any], None]] = {
    "transformers.tokenization_utils_base": patch_tokenizers,
    "vllm.model_executor.model_loader.weight_utils": patch_progress_bar,
}


class Patcher(importlib.abc.MetaPathFinder):
    """Finds the modules to patch as everybody else would, and patches each right after it was run."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """Return the ordinary spec with a loader that patches."""
        patch = PATCHES.pop(fullname, None)
        if patch is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_patch(module: ModuleType) -> None:
                run(module)
                patch(module)

            spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def run_shadowed() -> None:
    """Run the sitecustomize that this one hides, if there is one: the distribution's own."""
    here = os.path.dirname(os.path.abspath(__file__))
    others = [folder for folder in sys.path if os.path.abspath(folder) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


sys.meta_path.insert(0, Patcher())
run_shadowed()
