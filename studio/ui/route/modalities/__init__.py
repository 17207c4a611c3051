"""Routing by the kind of input: text, pictures, sounds."""
