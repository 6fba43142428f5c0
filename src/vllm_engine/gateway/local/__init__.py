"""What the gateway answers itself: probes, version, metrics, the page."""
