"""What is recorded of requests: access log, metrics, token usage, traces."""
