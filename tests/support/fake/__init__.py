"""A stand-in for vLLM: a real process on a real Unix socket that speaks its dialect."""
