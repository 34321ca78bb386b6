"""The regression gate: compare two runs, and check its margins against run-to-run noise (no torch)."""
