"""The real vLLM with the bundled model."""
