"""Requests to two frontends, and what clients make of the answers."""
