"""The commands of `vllm-engine`, one per file."""
