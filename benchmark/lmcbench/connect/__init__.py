"""Weights in, curves out."""
