"""What can be known to be wrong before anything is downloaded or started: checks with remedies."""
