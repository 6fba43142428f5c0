"""One model served by vLLM behind a small gateway that tells the truth about it."""

from importlib.metadata import version

__version__ = version("vllm-engine")
