"""A request's body: read whole within bounds, and the few fields the gateway needs."""
