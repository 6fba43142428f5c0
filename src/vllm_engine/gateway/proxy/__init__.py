"""One request to the engine, and its response back."""
