"""Sounds drawn from numbers: spoken words by formants, noises of the world, and the log-mel features that show them."""
