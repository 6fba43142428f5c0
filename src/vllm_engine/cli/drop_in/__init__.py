"""Starts by vLLM's own command: what its users' words mean here (docs/deploy/drop-in.md)."""
