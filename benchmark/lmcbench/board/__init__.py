"""Records in, tables and pages out (torch-free)."""
