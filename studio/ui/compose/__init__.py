"""The room Compose: adapters in, the recipe, the units, the preview, the export."""
