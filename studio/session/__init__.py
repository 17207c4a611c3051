"""What one visitor has open: adapters, the recipe they edit, its history, and what was computed from it."""
