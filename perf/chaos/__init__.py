"""Harm on purpose: what is done to a running program, what its clients get, and what is left behind."""
