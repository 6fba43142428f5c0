"""Stands in for vLLM in the image's own Python: `-m vllm.entrypoints.openai.api_server` starts the server.

vLLM itself is in /opt/engine, and its Python sees nothing of this.
"""


def __getattr__(name: str) -> object:
    """Say where vLLM is to programs that import it."""
    message = f"no vllm.{name} here: this Python only starts the server; vLLM's own is /opt/engine/bin/python"
    raise AttributeError(message)
