"""Is an architecture ready to be run: the checks, what they put it through, and a file to start from."""
