"""Thousands of inputs from a seeded generator, against the running program: what a stranger and a bad engine may send."""
