"""Measures of predictions and features of several networks (no torch)."""
