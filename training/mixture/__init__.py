"""How the files in assets/mixture were made; run `python -m training.mixture`."""
