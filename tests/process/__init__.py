"""Our program against real child processes."""
