"""What an engine prints, line by line, and how it ended."""
