"""Sizes of memory in binary units, as GPU vendors and vLLM tell them."""

from __future__ import annotations

GIB = 1 << 30


def gib(count: float | None) -> str:
    """Show bytes as GiB, or as MiB where that is too coarse."""
    if count is None:
        return "an unknown amount"
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / (1 << 20):.0f} MiB"
