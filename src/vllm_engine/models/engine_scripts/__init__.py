"""Scripts that run in the engine's Python and report in JSON on standard output."""
