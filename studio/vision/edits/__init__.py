"""The edits of the image world by family; `studio.vision.transforms` has them all by name."""
