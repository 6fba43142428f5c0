"""What a model takes of memory, what fits beside it and what that costs: pure, from config.json and sizes."""
