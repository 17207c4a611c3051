"""The text side of the studio: skills that a program can check, bases, generation and scores."""
