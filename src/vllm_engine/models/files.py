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
_BESIDE = (
    "config.json",
    "params.json",
    "generation_config.json",
    "*processor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "tekken.json",
    "chat_template*",
    "*.index.json",
)
"""Small files: a configuration, a tokenizer, a template. Which of them are fetched depends on the model."""


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
    top = [file for file in files if "/" not in file.path]
    return WantedFiles(_weights(files, index, load_format), _matching(top, *_BESIDE))


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
