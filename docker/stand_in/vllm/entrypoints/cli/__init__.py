"""Where the stand-ins are."""
