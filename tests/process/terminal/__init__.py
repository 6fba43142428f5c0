"""Commands on a terminal, in a pipe and in a shell."""
