"""Is a ready engine still working? Evidence, clocks and the verdict."""
