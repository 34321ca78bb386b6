"""What to run: suites, recipes, training shifts, cells, keys and seeds (torch-free)."""
