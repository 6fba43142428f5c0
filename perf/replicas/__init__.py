"""Replicas behind vllm-router: what the router costs beside a replica asked directly, and what clients see of kills and restarts."""
