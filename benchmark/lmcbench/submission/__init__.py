"""Make, verify and re-run a submission."""
