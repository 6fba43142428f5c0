"""The fake engine with both frontends: the Rust frontend is a second process with a socket of its own."""
