"""Definition of runs: suites, recipes, training shifts, forks, cells, keys and seeds (no torch)."""
