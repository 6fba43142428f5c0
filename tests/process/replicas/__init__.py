"""Several of our servers behind the real vllm-router."""
