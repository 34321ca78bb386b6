"""Tables, findings and figures from a run's records (no torch)."""
