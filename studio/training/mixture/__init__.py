"""How the files in assets/mixture were made; run `python -m studio.training.mixture`."""
