"""What is told of requests: access log, metrics, token usage, traces."""
