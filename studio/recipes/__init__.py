"""Recipes and what they name: sources, presets, uploads."""
