"""A run's records in, its tables, findings and figures out (torch-free)."""
