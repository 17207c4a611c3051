"""Compose with learned weights: the run, its curves, and what it leaves in the recipe."""
