"""Which known mismatches there are between the installed vLLM and the libraries beside it.

1. transformers 5 no longer has `all_special_tokens_extended`, which vLLM before 0.12 reads
   (vllm-project/vllm#29686).
2. vLLM before 0.11.1 passes `disable` to its progress bar twice when a newer hub client passes it too.

Both are mended by `shims/sitecustomize.py`, put on the engine's import path where it is needed.
"""

from __future__ import annotations

import filecmp
import re
import shutil
from pathlib import Path

SHIMS = Path(__file__).parents[1] / "engine" / "shims"
_NAME = "sitecustomize.py"
_MENDED_IN = ((0, 12), (0, 11, 1))
"""vLLM's versions that no longer need 1 and 2."""


def needs_shims(vllm: str, transformers: str) -> bool:
    """Whether these versions need either mend; a version that cannot be read needs none."""
    engine, library = _parts(vllm), _parts(transformers)
    if not engine:
        return False
    reads_the_lost_property = engine < _MENDED_IN[0] and library >= (5,)
    return reads_the_lost_property or engine < _MENDED_IN[1]


def write_shims(folder: Path, needed: bool) -> None:
    """Put the mends into the folder on the engine's import path, or take them away.

    What is as it should be is left alone: a disk that has become read-only must not hinder a restart.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / _NAME
    if needed and not (path.exists() and filecmp.cmp(SHIMS / _NAME, path, shallow=False)):
        folder.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".half")
        shutil.copyfile(SHIMS / _NAME, half)
        half.replace(path)
    elif not needed and path.exists():
        path.unlink()


def _parts(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
