"""Unit tests of system."""
