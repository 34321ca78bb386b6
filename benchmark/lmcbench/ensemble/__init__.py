"""Predictions in, numbers out (torch-free)."""
