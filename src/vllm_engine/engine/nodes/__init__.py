"""The machines that one model is split over: the head gathers the workers, and all start and end together."""
