"""The Analogy room of the page: pictures, the space of edits, its map, what is kept of it, and other models."""

from studio.ui.pictures.analogy.page import AnalogyPanel

__all__ = ["AnalogyPanel"]
