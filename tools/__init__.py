"""Scripts for those who work on the studio: the docs' generated sections, the environment, the README's picture."""
