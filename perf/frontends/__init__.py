"""vLLM's frontends side by side: Python, several of Python, Rust, both; by themselves and through our gateway."""
