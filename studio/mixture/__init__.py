"""The embedded mixture: a frozen text decoder, a vision and a speech adapter with their encoders, one rule."""
