"""The papers' claims on the embedded world: soups, LEGO and recycling, each beside its baselines and controls."""
