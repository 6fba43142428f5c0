"""How engines come and go: the standby, and the idle stop."""
