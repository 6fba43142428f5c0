"""Unit tests of proxy."""
