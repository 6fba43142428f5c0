"""Which of vLLM's frontends serve one engine, and how many API servers the Python frontend has."""
