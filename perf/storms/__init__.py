"""Attacks by real tools on a running program, and what its other clients see of them."""
