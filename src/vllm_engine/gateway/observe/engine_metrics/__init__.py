"""The metrics of vLLM's frontends, as one text."""
