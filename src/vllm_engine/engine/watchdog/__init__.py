"""Is a ready engine still working? Checks, and the evidence that they rest on."""
