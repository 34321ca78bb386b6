"""Measures on weights: curves, curvature, single layers, geometry, planes, REPAIR, weight matching."""
