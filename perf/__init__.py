"""Benchmarks, soak, chaos and storms."""
