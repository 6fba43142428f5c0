"""Checks that find problems before anything is downloaded or started, and the smoke test of a server."""
