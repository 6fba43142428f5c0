"""Unit tests of perf."""
