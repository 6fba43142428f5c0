"""The vLLM process: starting it, watching it, restarting it, and the state that others may read."""
