"""The regression gate: two runs in, one verdict out (torch-free)."""
