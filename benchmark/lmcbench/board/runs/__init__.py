"""A run's records in, its tables and its report out (torch-free)."""
