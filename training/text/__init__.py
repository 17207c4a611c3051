"""The embedded text world: a small story-telling base and the adapters that compose on it (issue 2).

`python -m training.text --help` says what a run needs and makes.
"""
