"""Pure: which of a hub repository's files vLLM will fetch.

The rules are vLLM's (`DefaultModelLoader._prepare_weights` and `download_weights_from_hf`, read in 0.32): one
kind of weights, safetensors before others, and of several safetensors those that the index names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_PATTERNS = {
    "safetensors": ("*.safetensors",),
    "fastsafetensors": ("*.safetensors",),
    "instanttensor": ("*.safetensors",),
    "mistral": ("consolidated*.safetensors",),
    "npcache": ("*.bin",),
    "pt": ("*.pt",),
}
_BY_DEFAULT = ("*.safetensors", "*.bin", "*.pt")
_NEVER_BESIDE = (
    *(f"*.{kind}" for kind in ("safetensors", "bin", "pt", "pth", "ckpt", "gguf", "h5", "msgpack")),
    *(f"*.{kind}" for kind in ("onnx", "onnx_data", "png", "jpg", "jpeg", "gif", "webp", "mp3", "mp4")),
    *(f"*.{kind}" for kind in ("wav", "flac", "parquet", "arrow", "ipynb", "zip", "tar*")),
)
"""What vLLM's `_WEIGHT_FILE_PATTERNS` leave out when it fetches a tokenizer with all that is beside it."""


@dataclass(frozen=True)
class HubFile:
    """A file of a hub repository; `blob` is the name under which the hub client's cache stores it."""

    path: str
    size: int
    blob: str


@dataclass(frozen=True)
class Listing:
    """What a hub repository holds.

    Attributes:
        folder: the model's folder in the hub client's cache.
        files: all its files.
        index: the files that `model.safetensors.index.json` names; None without one.
    """

    folder: Path
    files: tuple[HubFile, ...]
    index: tuple[str, ...] | None = None


@dataclass(frozen=True)
class WantedFiles:
    """What vLLM fetches: the weights surely, the small files beside them perhaps."""

    weights: tuple[HubFile, ...]
    beside: tuple[HubFile, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """The size of all weights."""
        return sum(file.size for file in self.weights)


def wanted_files(listing: Listing, load_format: str = "auto") -> WantedFiles:
    """Choose the files that vLLM will fetch with this `--load-format`."""
    files, index = listing.files, listing.index
    left_out = set(_matching(files, *_NEVER_BESIDE))
    beside = tuple(file for file in files if file not in left_out)
    return WantedFiles(_weights(files, index, load_format), beside)


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
