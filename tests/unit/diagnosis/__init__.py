"""Unit tests of diagnosis."""
