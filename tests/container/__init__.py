"""The image, with a real Docker engine."""
