"""What tests need of several servers behind a router."""
