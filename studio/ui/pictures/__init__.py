"""The room Pictures: visual analogies and image adapters."""
