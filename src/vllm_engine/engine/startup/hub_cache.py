"""Watches the hub client's cache: what of a model is there, and what is on its way.

vLLM draws no progress bar for its downloads. The hub client (2.4) writes each file to
`blobs/<etag>.<random>.incomplete`, over HTTP and over xet alike, and renames it to `blobs/<etag>` when done;
older ones leave the random part out.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vllm_engine.engine.engine_state import Phase, StatusBoard
from vllm_engine.models.download_progress import Download, Rate, Weights
from vllm_engine.models.repository_files import WantedFiles

SCAN_SECONDS = 0.5
_BIG_BYTES = 32 << 20
"""A file on its way that is larger than any tokenizer: the weights, where sizes are unknown."""

_SUFFIX = ".incomplete"


class HubCache:
    """One model's blobs."""

    def __init__(self, folder: Path, wanted: WantedFiles | None) -> None:
        """Look at the cache before a download begins.

        Args:
            folder: the model's folder in the hub cache.
            wanted: what vLLM will fetch; None where the hub did not tell.
        """
        self._blobs = folder / "blobs"
        self._wanted = wanted
        self._rate = Rate()
        # What an interrupted start left behind is never resumed.
        self._stale = {name: stat.st_mtime_ns for name, stat in self._entries().items()}

    def scan(self) -> Download:
        """Say what is there now."""
        entries = self._entries()
        coming = self._coming(entries)
        done = {name: stat.st_size for name, stat in entries.items() if not name.endswith(_SUFFIX)}
        seen = _of_unknown(done, coming) if self._wanted is None else _of_known(self._wanted, done, coming)
        return replace(seen, bytes_per_second=self._rate.add(time.monotonic(), seen.bytes_done))

    def _coming(self, entries: Mapping[str, os.stat_result]) -> dict[str, int]:
        newest: dict[str, os.stat_result] = {}
        for name, stat in entries.items():
            if name.endswith(_SUFFIX) and self._stale.get(name) != stat.st_mtime_ns:
                blob = name.split(".", 1)[0]
                if blob not in newest or stat.st_mtime_ns > newest[blob].st_mtime_ns:
                    newest[blob] = stat
        return {blob: _written(stat) for blob, stat in newest.items()}

    def _entries(self) -> dict[str, os.stat_result]:
        found: dict[str, os.stat_result] = {}
        try:
            with os.scandir(self._blobs) as entries:
                for entry in entries:
                    try:
                        found[entry.name] = entry.stat()
                    except FileNotFoundError:
                        continue  # renamed meanwhile: the next scan finds it
        except OSError:
            return {}  # not there yet, or not ours to read: a download without progress, no more
        return found


async def watch_download(board: StatusBoard, cache: HubCache | None) -> None:
    """Record how far the download is, until the weights are there or the engine reads them."""
    while cache is not None and board.current.phase.rank <= Phase.DOWNLOADING.rank:
        seen = await asyncio.to_thread(cache.scan)
        first = board.current.download is None
        if board.current.phase.rank > Phase.DOWNLOADING.rank or (first and seen.weights is Weights.PRESENT):
            return
        board.downloading(seen)
        if seen.weights is Weights.PRESENT:
            return
        await asyncio.sleep(SCAN_SECONDS)


def _of_known(wanted: WantedFiles, done: Mapping[str, int], coming: Mapping[str, int]) -> Download:
    # Small files that are not fetched at all must not hold the total up.
    beside = tuple(file for file in wanted.beside if file.blob in done or file.blob in coming)
    files = {file.blob: file for file in wanted.weights + beside}.values()
    missing = any(file.blob not in done for file in wanted.weights)
    return Download(
        weights=Weights.MISSING if missing else Weights.PRESENT,
        is_coming=any(file.blob in coming for file in wanted.weights),
        files_done=sum(file.blob in done for file in files),
        bytes_done=sum(
            file.size if file.blob in done else min(file.size, coming.get(file.blob, 0)) for file in files
        ),
        files_total=len(files),
        bytes_total=sum(file.size for file in files),
    )


def _of_unknown(done: Mapping[str, int], coming: Mapping[str, int]) -> Download:
    return Download(
        weights=Weights.UNKNOWN,
        is_coming=any(size >= _BIG_BYTES for size in coming.values()),
        files_done=len(done),
        bytes_done=sum(done.values()) + sum(coming.values()),
    )


def _written(stat: os.stat_result) -> int:
    # A file may be given its full size before it is filled; some file systems count no blocks at all.
    return min(stat.st_size, stat.st_blocks * 512) if stat.st_blocks else stat.st_size
