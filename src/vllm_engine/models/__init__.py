"""Where weights come from: the hub, a local folder, or the bundled default."""
