"""Pure: can the cache be written, and does the model fit there?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllm_engine.doctor.check import Check, fail, ok, warn
from vllm_engine.errors import Problem
from vllm_engine.models.download_progress import human_bytes

SPARE_BYTES = 2_000_000_000
"""For compile caches and what the hub client keeps beside the weights."""


def cache_check(cache_dir: Path, problems: Sequence[Problem]) -> Check:
    """Can CACHE_DIR be written?"""
    for problem in problems:
        if problem.key == "CACHE_DIR":
            return fail("cache", f"CACHE_DIR={problem.value}", problem.wanted)
    return ok("cache", f"{cache_dir} can be written")


def space_check(cache_dir: Path, free_bytes: int, missing_bytes: int | None) -> Check:
    """Is there room for what is still to be fetched?

    Args:
        cache_dir: where it goes.
        free_bytes: what is free there.
        missing_bytes: what the model still lacks; None where the hub did not tell.
    """
    free = f"{human_bytes(free_bytes)} free in {cache_dir}"
    if missing_bytes is None:
        return warn("space", f"{free}; the model's size is not known", "make sure that it fits")
    short = missing_bytes + SPARE_BYTES - free_bytes
    if free_bytes < missing_bytes:
        found = f"{free}, {human_bytes(missing_bytes)} to download"
        return fail("space", found, f"free {human_bytes(short)} there, or set CACHE_DIR to a larger volume")
    if short > 0:
        found = f"{free}, {human_bytes(missing_bytes)} to download, and compile caches want some more"
        return warn("space", found, f"free {human_bytes(short)} there, or set CACHE_DIR to a larger volume")
    return ok("space", f"{free}, {human_bytes(missing_bytes)} to download")
