"""The papers' claims held against records (torch-free)."""
