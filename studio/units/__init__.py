"""Minimal semantic units: the rank-one terms of adapters, their clusters, overlap and place on the map."""
