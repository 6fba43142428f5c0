"""What the gateway answers itself: probes, version, the page."""
