"""One model served by vLLM behind a small gateway that tells the truth about it."""

__version__ = "0.1.0"
