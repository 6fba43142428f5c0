"""What a person at a terminal sees of what takes long."""
