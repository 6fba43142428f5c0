"""Clients of a running server: plain questions, waiting until it is ready, chat, load."""
