"""Why an engine ended, in one sentence with a remedy."""
