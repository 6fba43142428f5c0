"""The HTTP side: probes, version and the transparent way to the engine."""
