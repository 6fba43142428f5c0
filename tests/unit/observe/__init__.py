"""Unit tests of observe."""
