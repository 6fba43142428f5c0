"""Beyond one machine, and down to none, with the real vLLM."""
