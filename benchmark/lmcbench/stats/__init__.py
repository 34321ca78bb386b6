"""Values over replicates in, estimates and tests out (torch-free)."""
