"""Pure: which of a hub repository's files vLLM loads.

The rules are vLLM's (`DefaultModelLoader._prepare_weights` and `download_weights_from_hf`, read in 0.32): one
kind of weights, safetensors before others, and of several safetensors those that the index names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

INDEX = "model.safetensors.index.json"
_PATTERNS = {
    "safetensors": ("*.safetensors",),
    "fastsafetensors": ("*.safetensors",),
    "instanttensor": ("*.safetensors",),
    "mistral": ("consolidated*.safetensors",),
    "npcache": ("*.bin",),
    "pt": ("*.pt",),
}
FORMATS = frozenset({*_PATTERNS, "auto", "hf", "bitsandbytes"})
"""Values of `--load-format` with which vLLM loads what `wanted_files` chooses."""

_BY_DEFAULT = ("*.safetensors", "*.bin", "*.pt")
_NEVER_BESIDE = (
    *(f"*.{kind}" for kind in ("safetensors", "bin", "pt", "pth", "ckpt", "gguf", "h5", "msgpack")),
    *(f"*.{kind}" for kind in ("onnx", "onnx_data", "png", "jpg", "jpeg", "gif", "webp", "mp3", "mp4")),
    *(f"*.{kind}" for kind in ("wav", "flac", "parquet", "arrow", "ipynb", "zip", "tar*")),
)
"""What vLLM's `_WEIGHT_FILE_PATTERNS` leave out when it fetches a tokenizer with all that is beside it."""

_SECONDARY = (
    *(f"*_Dense/{name}" for name in ("model.safetensors", "pytorch_model.bin")),  # Sentence Transformers
    *("sparse_linear.pt", "colbert_linear.pt", "joint_head.safetensors", "mask_embedding.pt"),
    "adapters/*/adapter_model.safetensors",
)
"""Small weights that some models load beside their own, and do without if they are not there."""


class HubFile(NamedTuple):
    """A file of a repository; `blob` is its checksum, and its name in the hub client's cache."""

    path: str
    size: int
    blob: str

    def is_in(self, folder: Path) -> bool:
        """Whether a snapshot or folder has it at its full size."""
        try:
            return (folder / self.path).stat().st_size == self.size
        except OSError:
            return False


class Listing(NamedTuple):
    """All files of a repository, and those that its safetensors index names; None without one."""

    files: tuple[HubFile, ...]
    indexed: tuple[str, ...] | None = None


@dataclass(frozen=True)
class WantedFiles:
    """What vLLM loads: weights and the small files beside them; `lacking` are named by the index alone."""

    weights: tuple[HubFile, ...]
    beside: tuple[HubFile, ...] = ()
    lacking: frozenset[str] = frozenset()

    @property
    def files(self) -> tuple[HubFile, ...]:
        """Weights and all else, each once."""
        return tuple(dict.fromkeys(self.weights + self.beside))

    @property
    def weight_bytes(self) -> int:
        """The size of all weights."""
        return sum(file.size for file in self.weights)


def read_index(path: Path) -> tuple[str, ...] | None:
    """Return the files that a safetensors index names; None where there is none that can be read."""
    try:
        return tuple(sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def wanted_files(listing: Listing, load_format: str = "auto") -> WantedFiles:
    """Choose the files that vLLM loads with this `--load-format`."""
    files, index = listing
    left_out = set(_matching(files, *_NEVER_BESIDE)) - set(_matching(files, *_SECONDARY))
    beside = tuple(file for file in files if file not in left_out)
    lacking = frozenset(index or ()) - {file.path for file in files}
    return WantedFiles(_weights(files, index, load_format), beside, lacking)


def _weights(files: Sequence[HubFile], index: Sequence[str] | None, form: str) -> tuple[HubFile, ...]:
    patterns = _PATTERNS.get(form, _BY_DEFAULT)
    if form == "auto" and _matching(files, *_PATTERNS["mistral"]):
        patterns = _PATTERNS["mistral"]
    if index and "*.safetensors" in patterns:
        named = set(index)
        return tuple(file for file in files if file.path in named)
    return next(filter(None, (_matching(files, pattern) for pattern in patterns)), ())


def _matching(files: Sequence[HubFile], *patterns: str) -> tuple[HubFile, ...]:
    # As the hub client and vLLM match: a star spans slashes.
    return tuple(file for file in files if any(fnmatchcase(file.path, pattern) for pattern in patterns))
