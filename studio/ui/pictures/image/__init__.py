"""Image adapters side by side: from one noise, or over a grid of two weights."""
