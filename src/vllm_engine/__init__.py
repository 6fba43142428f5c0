"""One model served by vLLM behind a small gateway that tells the truth about it."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """Return `__version__`; not at import, since in the engine's Python this package is not installed."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - as above

    return version("vllm-engine")
