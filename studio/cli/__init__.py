"""The command line: one module a verb, over the functions that the page calls."""
