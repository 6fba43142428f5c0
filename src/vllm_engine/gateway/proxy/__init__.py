"""One request to the engine, and its answer back."""
