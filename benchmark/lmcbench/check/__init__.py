"""Check whether an architecture is ready to run."""
