"""Both frontends on one engine: how they start and end, which of them answers, and what clients see of that."""
