"""Bytes from and to clients: connections within bounds, TLS, and uvicorn's internals."""
