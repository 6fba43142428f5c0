"""Clients of a running server: plain requests, waiting until it is ready, chat, load."""

STANDARD_QUESTION = "What is the capital of Japan?"
"""Asked wherever any question will do: even the smallest models answer it."""

FIRST_QUESTION = "Why is the sky blue?"
"""Asked where a person reads the answer: the bundled model gives a whole one that is mostly true."""
