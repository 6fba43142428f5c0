"""Two nodes on this machine, our programs on them, and what may be lost."""
