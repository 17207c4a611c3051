"""The room Judge: merges scored beside the base, each source, and controls."""
