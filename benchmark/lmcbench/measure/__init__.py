"""Measure between a user's checkpoints: curves, soups and ensemble, as numbers, text and a figure."""
