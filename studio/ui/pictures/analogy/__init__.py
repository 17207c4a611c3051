"""The Analogy room of the page: pictures, the space of edits, its map, what is kept of it, and other models."""
