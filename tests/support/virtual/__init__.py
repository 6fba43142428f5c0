"""Played counterparts and a virtual clock, for tests without a process."""
