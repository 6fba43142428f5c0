"""The HTTP side: a transparent proxy to the engine, and the routes that the gateway answers itself."""
