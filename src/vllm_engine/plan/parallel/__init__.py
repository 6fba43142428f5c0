"""How the model is split over GPUs and machines, and what of that cannot work."""
