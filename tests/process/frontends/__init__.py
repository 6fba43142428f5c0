"""Both frontends on one engine: which of them answers, and what clients see of that."""
