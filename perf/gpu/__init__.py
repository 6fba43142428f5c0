"""Measurements and recordings on a machine with a GPU."""
