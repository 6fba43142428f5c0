"""The commands of `vllm-engine`, one a file."""
