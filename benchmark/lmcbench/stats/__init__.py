"""Statistics over replicates: tables of cells, means and intervals, tests, the stability point (no torch)."""
