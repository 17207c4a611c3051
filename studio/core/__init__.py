"""The ground floor: adapters, tensors that stay on disk, low-rank algebra, files, errors, packaged data."""
