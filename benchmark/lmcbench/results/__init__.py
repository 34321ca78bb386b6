"""Curves, records, the run folder and provenance (no torch)."""
