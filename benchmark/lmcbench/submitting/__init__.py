"""A run's records as a submission: made, verified, and trained again."""
