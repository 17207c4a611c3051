"""Writers: one file a format, and the one safe way to save."""
